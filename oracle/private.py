"""Files with secrets, which nobody else may read."""

import os
import stat
from collections.abc import Mapping
from pathlib import Path

from oracle.cli import UserError


def read_private(path: str, setting: str, environment: Mapping[str, str] = os.environ) -> str:
    """The text of a file that only this user can read. Raises UserError for any other; `setting` named it."""
    try:
        mode, text = Path(path).stat().st_mode, Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8"
        raise UserError(f"--{setting}={path}: {reason}; name a text file of yours") from None
    # systemd guards its credentials by an access list, which shows as a permission of the group.
    guarded = environment.get("CREDENTIALS_DIRECTORY") == str(Path(path).parent)
    if os.name == "posix" and not guarded and stat.S_IMODE(mode) & 0o077:
        raise UserError(f"--{setting}={path}: others may read it; run chmod 600 {path}")
    return text
