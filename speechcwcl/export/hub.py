"""Uploading a packed folder to the model hub."""

from __future__ import annotations

from pathlib import Path

from speechcwcl.errors import UserError


def push(folder: Path, repo: str) -> str:
    """Upload a packed folder; the token is the one of `hf auth login`.

    Raises:
        UserError: no token, no permission, no network, not the name of a repository.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HFValidationError

    api = HfApi()
    hint = "check the network, and log in with `hf auth login`"
    try:
        api.create_repo(repo, exist_ok=True)
        message = "Packed with speechcwcl"
        return str(api.upload_folder(repo_id=repo, folder_path=folder, commit_message=message))
    except HFValidationError as error:
        raise UserError(f"{repo}: not the name of a hub repository (owner/name)") from error
    except Exception as error:  # its HTTP client, and so the errors, change between versions
        why = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        raise UserError(f"{repo}: cannot upload: {why}; {hint}") from error
