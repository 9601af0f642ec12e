"""What starts runs by itself: a look at the inbox, and a look at what is due for removal from S3.

A sensor fetches, lets a plain function decide, and says why when there is nothing to do.
"""
