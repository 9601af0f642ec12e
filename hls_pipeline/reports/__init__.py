"""What a manager and a spreadsheet want to know: the inventory of all files, the numbers, their plots, and one page."""
