"""Content addressing and the IPFS nodes we talk to.

`cid`, `car` and `unixfs` are pure: bytes in, content ids and blocks out, no I/O beyond the stream they are
given. `kubo` is the client of a node, `proof` what we make of its answers. Rules about packages belong to
`hls`.
"""
