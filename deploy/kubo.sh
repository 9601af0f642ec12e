#!/bin/sh
# What a Kubo node needs before it may hold the only copy of something. To be run before each start of its daemon, as its
# user; said twice, it changes nothing. `hls-pipeline doctor` looks at the same. Source: kubo docs/config.md.
set -e

# A block is on the disk before anybody is told that it is there: new repositories have this off.
sed -i 's/"sync": false/"sync": true/' "$IPFS_PATH/config"
# With its cache it would not write a block over that is damaged on disk.
ipfs config --json Datastore.BlockKeyCacheSize 0
# What its disk has for it. It collects no garbage by itself: that needs --enable-gc.
ipfs config Datastore.StorageMax "${IPFS_STORAGE_MAX:-1TB}"
# Its gateway serves what it has and fetches nothing for strangers, nor for its own proof.
ipfs config --json Gateway.NoFetch true
# Both are divided by the number of cores; larger batches are fewer waits for the disk.
ipfs config --json Import.BatchMaxNodes $((128 * $(nproc)))
ipfs config --json Import.BatchMaxSize $((64 * 1024 * 1024 * $(nproc)))
# It tells the network of files and directories, not of each of their chunks.
ipfs config Provide.Strategy pinned+mfs+entities
