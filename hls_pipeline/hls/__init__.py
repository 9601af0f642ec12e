"""HLS packages: read every one, change only what must change, refuse what is broken.

Pure: bytes in, bytes and values out. Nothing here opens a socket, or a file outside the package. Start with
`package.survey` and `package.check`; `rewriting.rewrite` makes the other forms of a playlist; the rules are a table in
`rules.py`.
"""
