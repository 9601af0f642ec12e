"""Takes an encoded HLS package from S3 to IPFS, proves that it arrived, and keeps every state of its metadata.

    stage                every file checked, its content id computed, stored under it; the inbox is emptied
    write_s3_manifest    playlists rewritten to s3://, the temporary JSON is a version
    publish              every block on a quorum of IPFS nodes, pinned, their CIDs equal to ours
    write_ipfs_manifest  playlists rewritten to ipfs://, recorded on IPFS beside the originals
    finalize             the final JSON becomes the current version, in one transaction
    clear_temp_storage   the proof is repeated, then the S3 copies go

Read `steps.py` first. This file imports nothing, so that every entry point pays only for what it uses.
"""
