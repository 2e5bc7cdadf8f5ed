"""What Python's client of the Hub does with the Hub of the tests: `client.py MODE FOLDER [REPO]`.

MODE is `xet`, or `lfs`; then HF_HUB_DISABLE_XET must be set. FOLDER has small files and large ones.
Fails if a file does not come back as it was sent. With REPO only downloads: that one has the
files already, and this client finds nothing to upload.
"""

import filecmp
import os
import sys
import tempfile
from pathlib import Path

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import HfHubHTTPError


def same(left: Path, right: Path) -> None:
    names = sorted(str(p.relative_to(left)) for p in left.rglob("*") if p.is_file())
    there = [name for name in names if filecmp.cmp(left / name, right / name, shallow=False)]
    assert names and there == names, (names, there)


def download(repo: str, revision: str, folder: Path) -> None:
    with tempfile.TemporaryDirectory() as cache:
        there = snapshot_download(repo, revision=revision, cache_dir=cache)
        same(folder, Path(there))


def main(mode: str, folder: Path) -> None:
    api = HfApi()
    user = api.whoami()["name"]
    repo = f"{user}/{mode}"
    assert api.create_repo(repo, private=True).repo_id == repo
    api.create_repo(repo, exist_ok=True)
    try:
        api.create_repo(repo)
        raise AssertionError("a name can be taken twice")
    except HfHubHTTPError as error:
        assert error.response.status_code == 409

    small = api.upload_file(path_or_fileobj=b"a model", path_in_repo="README.md", repo_id=repo)
    whole = api.upload_folder(folder_path=folder, repo_id=repo, parent_commit=small.oid)
    download(repo, whole.oid, folder)
    # Nothing has changed: no commit.
    assert api.upload_folder(folder_path=folder, repo_id=repo).oid == whole.oid
    try:
        api.upload_file(
            path_or_fileobj=b"late", path_in_repo="late", repo_id=repo, parent_commit=small.oid
        )
        raise AssertionError("a commit on an old one is taken")
    except HfHubHTTPError as error:
        assert error.response.status_code == 412

    api.create_branch(repo, branch="tries/1")
    on_branch = api.upload_file(
        path_or_fileobj=b"\0" * 3_000_000, path_in_repo="x.bin", repo_id=repo, revision="tries/1"
    )
    titles = [commit.commit_id for commit in api.list_repo_commits(repo, revision="tries/1")]
    assert titles[:3] == [on_branch.oid, whole.oid, small.oid], titles
    download(repo, "tries/1", folder)
    assert not api.file_exists(repo, "x.bin")
    assert {ref.name for ref in api.list_repo_refs(repo).branches} == {"main", "tries/1"}


if __name__ == "__main__":
    assert bool(os.environ.get("HF_HUB_DISABLE_XET")) == (sys.argv[1] != "xet")
    if len(sys.argv) == 3:
        main(sys.argv[1], Path(sys.argv[2]))
    else:
        folder, repo = Path(sys.argv[2]), sys.argv[3]
        download(repo, "main", folder)
        tip = HfApi().model_info(repo).sha
        assert HfApi().upload_folder(folder_path=folder, repo_id=repo).oid == tip
