"""Downloads a model with huggingface_hub from the hub at HF_ENDPOINT, into the cache of HF_HOME, and says what it saw.

Usage: hub.py REPO DIR; prints JSON: the commit, the snapshot and the files with their sizes. Then it uploads DIR there.
"""

import json
import sys

from huggingface_hub import HfApi, snapshot_download

repo = sys.argv[1]
api = HfApi()
info = api.model_info(repo, revision="main")
files = {f.path: f.size for f in api.list_repo_tree(repo, recursive=True)}
answer = {"commit": info.sha, "snapshot": snapshot_download(repo), "files": files}
api.create_repo(repo, exist_ok=True)
api.upload_folder(repo_id=repo, folder_path=sys.argv[2], commit_message="as nf4kit push")
print(json.dumps(answer))
