"""UnixFS: files and directories as blocks, with the content ids that `ipfs add` gives.

This is the face of four modules; import from here. Files are in `files`, directories in `directories`, the
wire forms in `dagpb`, reading back (paths, listings, seeking) in `reading`, and folders on a disk in `tree`.
"""

from hls_pipeline.ipfs.dagpb import links
from hls_pipeline.ipfs.directories import Directory, Extent, build_directory
from hls_pipeline.ipfs.files import PROFILES, FileBuilder, Node, Profile
from hls_pipeline.ipfs.reading import Entry, Kind, entries, inspect, read_file, resolve, walk
from hls_pipeline.ipfs.tree import hash_tree

__all__ = [
    "PROFILES",
    "Directory",
    "Entry",
    "Extent",
    "FileBuilder",
    "Kind",
    "Node",
    "Profile",
    "build_directory",
    "entries",
    "hash_tree",
    "inspect",
    "links",
    "read_file",
    "resolve",
    "walk",
]
