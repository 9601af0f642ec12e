"""The path as Dagster assets, one file each, one partition per video.

An asset calls its step and says what to show in the UI; it holds no logic and passes no value on, the data is in S3,
IPFS and the metadata store. What all of them share is in `frame.py`.
"""
