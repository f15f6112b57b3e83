"""Where the package says it runs, and where it does."""

from __future__ import annotations

import sys
import tomllib

from helpers.places import ROOT

# Of the standard library, what Windows does not have.
UNIX_ONLY = ("fcntl", "os.register_at_fork", "resource")


def test_windows_is_not_among_the_systems_while_modules_need_unix():
    sources = [path.read_text(encoding="utf-8") for path in sorted((ROOT / "src").rglob("*.py"))]
    assert any(name in text for text in sources for name in UNIX_ONLY), "list Windows, if it is tested"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    systems = {each for each in project["classifiers"] if each.startswith("Operating System")}
    assert systems == {"Operating System :: MacOS", "Operating System :: POSIX :: Linux"}
    assert "Linux or macOS" in (ROOT / "README.md").read_text(encoding="utf-8")
    assert sys.platform in ("linux", "darwin")
