"""The page's files fit together: what a script imports is there and offers those names, and the page's ids exist."""

from __future__ import annotations

import re

import pytest

from stages.web import FOLDER, site

SCRIPTS = sorted(path.name for path in FOLDER.glob("*.js"))


@pytest.mark.parametrize("name", SCRIPTS)
def test_every_import_is_offered(name: str) -> None:
    files, text = site([]), (FOLDER / name).read_text()
    for names, source in re.findall(r"import \{ ([^}]*) \} from '\./([^']+)'", text):
        assert source in files
        offered = (FOLDER / source).read_text()
        for word in names.split(", "):
            assert re.search(rf"export (?:async )?(?:function|class|const) {word}\b", offered), (source, word)
    for worker, vendor in re.findall(r"new URL\('\./([^']+\.js)'|from '\./(vendor/[^']+)'", text):
        assert (worker or vendor) in files


def test_every_script_is_used_and_every_control_exists() -> None:
    page, scripts = (FOLDER / "index.html").read_text(), {name: (FOLDER / name).read_text() for name in SCRIPTS}
    for name in SCRIPTS:
        assert name in page + "".join(text for other, text in scripts.items() if other != name), name
    assert set(re.findall(r"\bpage\.(\w+)", scripts["app.js"])) <= set(re.findall(r'id="(\w+)"', page))
