"""The gateway as a part of the local stack: reading is open, and the pages use a key made at the first start.

The key is in the data folder and in `stack.json`, for its owner alone. In production `hls-pipeline gateway` runs
without any of this.
"""

from __future__ import annotations

import sys

from pydantic import SecretStr

from hls_pipeline import metadata_store
from hls_pipeline.gateway import access, config, server
from hls_pipeline.local.data_folder import DataFolder


def run(port: int) -> None:
    settings = config.load()
    key = access.ensure_local_key(metadata_store.connect(settings.database_url), DataFolder(settings.data).api_key_file)
    local = {"page_key": SecretStr(key), "public_read": True, "webhook_private": True, "closing_seconds": 3}
    server.run(settings.model_copy(update=local), "127.0.0.1", port)


if __name__ == "__main__":
    run(int(sys.argv[1]))
