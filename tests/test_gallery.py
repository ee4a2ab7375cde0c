"""The gallery: notebooks run to their end or say why not, and pages need nothing from elsewhere."""

import io
import json
import re
from base64 import b64decode, b64encode
from html.parser import HTMLParser
from pathlib import Path

import nbformat
import numpy as np
import psutil
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from PIL import Image

from labkit.cli.main import main
from labkit.core.errors import UsageError
from labkit.core.files import recorded_folder
from labkit.lessons.gallery import (
    _is_progress,
    _small,
    add_badge,
    cells_sha256,
    execute,
    question_of,
    renew_text,
    repository,
    title_of,
    write_gallery,
)
from labkit.results.plots.style import COLOURS

ROOT = Path(__file__).parents[1]
HOSTILE = "</main><script>alert(1)</script>&\"'"
PICTURE = "data:image/png;base64,iVBORw0KGgo="


def cells(*sources):
    return [
        new_markdown_cell(f"# 01 Title {HOSTILE}\n\nSee [the next](02_next.ipynb#run)."),
        new_markdown_cell("[Read it with results](../results/gallery/01_first.ipynb)."),
        new_code_cell("SIZE = 3", metadata={"tags": ["parameters"]}),
        new_markdown_cell("## Question\n\nHow <much>?\n\n## Predict\n\nMore."),
        new_markdown_cell("![a file](../beside/a%20b.png) ![none](../none.png) ![text](../beside/no.txt)"),
        *(new_code_cell(source) for source in sources),
    ]


def written(path, *sources):
    notebook = new_notebook(cells=cells(*sources))
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3"}
    nbformat.write(notebook, path)
    return path


class Tags(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.all, self.text = [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.all.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data


def needs_nothing(text):
    tags = Tags(text)
    assert not {tag for tag, _ in tags.all} & {"script", "link", "iframe", "object", "embed", "base"}
    for tag, attributes in tags.all:
        assert not [name for name in attributes if name.startswith("on")], tag
        if "src" in attributes and attributes.get("alt") not in ("none", "text"):
            assert attributes["src"].startswith("data:")
        assert not re.match(r"(https?:)?//", attributes.get("href") or "")
    assert "@import" not in text
    assert "default-src 'none'" in text
    return tags


@pytest.fixture(scope="module")
def gallery(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gallery")
    (folder.parent / "beside").mkdir(exist_ok=True)
    (folder.parent / "beside" / "a b.png").write_bytes(b64decode(PICTURE.partition(",")[2]))
    (folder.parent / "beside" / "no.txt").write_text("a text is no picture")
    first = written(
        folder / "01_first.ipynb",
        "print(SIZE * 11)",
        "from IPython.display import HTML, display",
        f"""display(HTML('<p>seen</p><img src="{PICTURE}" alt="three frames"><style>p {{}}</style>'))""",
        "display(HTML('<script src=\"https://example.org/x.js\"></script>'))",
        "from tqdm.auto import tqdm\nfor _ in tqdm(range(3), desc='passing by'): pass",
        "import pandas as pd; pd.DataFrame({'column': [1]})",
        "from matplotlib.figure import Figure\nimport ipywidgets\nipywidgets.VBox([ipywidgets.Button()])",
        "from labkit.results.store import Prediction, Store, default_path\n"
        "Store(default_path()).add_prediction(Prediction('q', (), 2.0))",
        "import os; print('home', os.environ['LABKIT_HOME'])",
    )
    second = written(folder / "02_next.ipynb", f"raise ValueError({HOSTILE!r})", "print('still here')")
    lines = []
    made = write_gallery(
        [first, second],
        folder / "pages",
        minutes=2,
        parameters={"SIZE": "7", "OTHER": "8"},
        progress=lines.append,
    )
    return made, lines, folder


def test_pages_need_nothing_from_elsewhere_and_tell_all(gallery):
    _, lines, folder = gallery
    pages = {path.stem: path.read_text() for path in (folder / "pages").glob("*.html")}
    assert set(pages) == {"index", "01_first", "02_next"}
    tags = {name: needs_nothing(text) for name, text in pages.items()}
    assert "77" in tags["01_first"].text
    assert "OTHER" not in tags["01_first"].text
    assert tags["01_first"].text.count("stands here when the notebook is open") == 1
    assert tags["01_first"].text.count("passing by") == 1, "the code stays, its bar does not"
    assert "dataframe" in {
        attributes.get("class") for tag, attributes in tags["01_first"].all if tag == "table"
    }
    pictures = {found["alt"]: found["src"] for tag, found in tags["01_first"].all if tag == "img"}
    assert pictures == {
        "three frames": PICTURE, "a file": PICTURE, "none": "../none.png", "text": "../beside/no.txt",
    }  # fmt: skip
    assert 'href="02_next.html#run"' in pages["01_first"]
    assert 'href="index.html"' in pages["02_next"]
    assert any("01_first.ipynb: complete" in line for line in lines)


def test_colours_that_a_plot_tells_apart_stay_apart():
    path = recorded_folder() / "amd-epyc-2cores" / "gains.png"
    (encoded,) = _small(b64encode(path.read_bytes()).decode()).values()
    small = np.asarray(Image.open(io.BytesIO(b64decode(encoded))).convert("RGB")).reshape(-1, 3)
    for colour in (COLOURS[1], COLOURS[2], COLOURS[5]):
        wanted = np.array([int(colour[k : k + 2], 16) for k in (1, 3, 5)])
        assert (np.abs(small.astype(int) - wanted).max(1) < 8).sum() > 300, colour


@pytest.mark.parametrize(
    ("html", "plain", "passes_by"),
    [
        ('<pre style="x"></pre>\n', "", True),
        ("<pre>3 of 4</pre>", "", False),
        ("<img src='data:'>", "", False),
        ("<pre></pre>", "a table", False),
    ],
)
def test_the_blank_that_a_finished_bar_leaves_is_no_result(html, plain, passes_by):
    assert _is_progress({"data": {"text/html": [html], "text/plain": [plain]}}) is passes_by


def test_a_cell_that_fails_is_told_and_the_rest_is_run(gallery):
    made, _, folder = gallery
    assert made.executed[0].trouble is None
    assert "ValueError" in made.executed[1].trouble
    text = Tags((folder / "pages" / "02_next.html").read_text()).text
    assert "still here" in text
    assert "ValueError" in text


def test_the_index_names_titles_questions_pictures_and_troubles(gallery):
    made, _, _ = gallery
    tags = Tags(made.index.read_text())
    for part in (f"01 Title {HOSTILE}", "How <much>?", "1 of 2 notebooks", "ValueError"):
        assert part in tags.text
    assert "More." not in tags.text
    assert [attributes["alt"] for tag, attributes in tags.all if tag == "img"] == ["three frames"]


def test_copies_hold_their_outputs_and_the_hash_of_their_cells(gallery):
    _, _, folder = gallery
    copy = nbformat.read(folder / "pages" / "01_first.ipynb", as_version=4)
    assert copy.metadata["labkit"]["source_sha256"] == cells_sha256(folder / "01_first.ipynb")
    assert "[Run it yourself](../../notebooks/01_first.ipynb)" in copy.cells[1].source
    shown = [output["data"] for cell in copy.cells for output in cell.get("outputs", []) if "data" in output]
    (picture,) = (data for data in shown if "image/png" in data)  # viewers drop pictures from HTML
    assert picture == {"image/png": PICTURE.partition(",")[2], "text/plain": "three frames"}
    assert {"text/html": "<p>seen</p>", "text/plain": "seen"} in shown
    changed = written(folder / "changed.ipynb", "print(4)")
    assert cells_sha256(changed) != cells_sha256(folder / "01_first.ipynb")


def test_changed_text_is_taken_over_into_a_copy_and_changed_code_is_not(gallery, tmp_path, capsys):
    _, _, folder = gallery
    path, place = tmp_path / "01_first.ipynb", tmp_path / "pages" / "01_first.ipynb"
    place.parent.mkdir()
    place.write_text((folder / "pages" / "01_first.ipynb").read_text())
    notebook = nbformat.read(folder / "01_first.ipynb", as_version=4)
    notebook.cells[3].source = "## Question\n\nHow few?"
    nbformat.write(notebook, path)
    assert main(["gallery", str(path), "--to", str(place.parent), "--text"]) == UsageError.exit_code
    assert "was not made from the code of" in capsys.readouterr().err  # but with a parameter set in it
    before = nbformat.read(place, as_version=4)
    before.cells = [cell for cell in before.cells if cell.source != "SIZE = 7"]
    nbformat.write(before, place)
    with pytest.raises(SystemExit) as ended:
        main(["gallery", str(path), "--to", str(place.parent), "--text"])
    assert ended.value.code == 0
    after = nbformat.read(place, as_version=4)
    assert after.metadata["labkit"]["source_sha256"] == cells_sha256(path)
    assert (question_of(after), question_of(before)) == ("How few?", "How <much>?")
    outputs = [[cell.get("outputs") for cell in copy.cells] for copy in (before, after)]
    assert outputs[0] == outputs[1] and "77" in str(outputs)
    assert before.cells[1].source == after.cells[1].source  # which machine ran it, and when
    with pytest.raises(UsageError, match="no notebook"):
        renew_text([tmp_path / "none.ipynb"], place.parent)
    notebook.cells[-1].source = "print('changed')"
    nbformat.write(notebook, path)
    assert main(["gallery", str(path), "--to", str(place.parent), "--text"]) == UsageError.exit_code


def test_a_copy_has_a_badge_for_a_hosted_gpu_once_the_project_has_an_address(tmp_path, capsys):
    from IPython.core.inputtransformer2 import TransformerManager

    path = tmp_path / "notebooks" / "01_first.ipynb"
    for text in ("", "[project]\nname = 'x'", "[project.urls]\nrepository = 'https://example.org/a'", "["):
        (tmp_path / "pyproject.toml").write_text(text)
        plain = new_notebook(cells=cells("1"))
        add_badge(plain, path)
        assert len(plain.cells) == len(cells("1")), "no badge that leads nowhere"
    (tmp_path / "pyproject.toml").write_text("[project.urls]\nrepository = 'https://github.com/a-b/c.d'")
    notebook = new_notebook(cells=cells("1"))
    add_badge(notebook, path)
    nbformat.validate(notebook)
    badge, install = notebook.cells[:2]
    assert "/github/a-b/c.d/blob/main/results/gallery/01_first.ipynb)" in badge.source
    assert '@ git+https://github.com/a-b/c.d"' in install.source
    exec(TransformerManager().transform_cell(install.source), {})  # where the lab is there: a word on the GPU
    assert capsys.readouterr().out


def test_copies_in_the_repository_have_a_badge_if_it_has_an_address():
    for path in COPIES:
        first = json.loads(path.read_text())["cells"][0]
        assert (first["id"] == "hosted-badge") == (repository(ROOT) is not None), "run: make gallery"


def test_readme_links_each_notebook_and_its_copy():
    readme = (ROOT / "README.md").read_text()
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        assert f"](notebooks/{path.name})" in readme and f"](results/gallery/{path.name})" in readme


@pytest.mark.parametrize("folder", ["notebooks", "results/gallery"])
def test_links_between_notebooks_lead_somewhere(folder):
    for path in (ROOT / folder).glob("*.ipynb"):
        cells = json.loads(path.read_text())["cells"]
        texts = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown"]
        links = re.findall(r"\]\(([^):]+)\)", "\n".join(texts))
        assert links and not [link for link in links if not (path.parent / link).is_file()], path.name


COPIES = sorted((ROOT / "results" / "gallery").glob("*.ipynb"))


def test_every_notebook_has_a_copy():
    notebooks = sorted((ROOT / "notebooks").glob("*.ipynb"))
    assert [path.name for path in COPIES] == [path.name for path in notebooks]


@pytest.mark.parametrize("path", COPIES, ids=lambda path: path.stem)
def test_a_copy_in_the_repository_is_that_of_its_notebook(path):
    copy = json.loads(path.read_text())
    newest = cells_sha256(ROOT / "notebooks" / path.name)
    assert copy["metadata"]["labkit"]["source_sha256"] == newest, "run: make gallery"
    assert path.stat().st_size < 2e6
    assert not re.search(r"/(tmp|home|root|work)/", path.read_text())
    assert not [
        out for cell in copy["cells"] for out in cell.get("outputs", []) if out["output_type"] == "error"
    ]


def test_notebooks_are_left_as_they_are_and_the_learners_store_too(gallery):
    _, _, folder = gallery
    notebook = nbformat.read(folder / "01_first.ipynb", as_version=4)
    assert all(not cell.get("outputs") for cell in notebook.cells)
    assert len(notebook.cells) == 14
    home = re.search(r"home (\S+labkit-gallery\S+)", (folder / "pages" / "01_first.html").read_text())[1]
    assert not psutil.os.path.exists(home)


def test_a_notebook_that_takes_too_long_is_stopped_and_nothing_is_left(tmp_path):
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    path = written(
        tmp_path / "a.ipynb", "print('begun', flush=True)\nimport threading; threading.Event().wait()"
    )
    executed = execute(path, 6.0)
    assert "stopped after 0.1 minutes" in executed.trouble
    left = {child.pid for child in psutil.Process().children(recursive=True)} - before
    assert not [pid for pid in left if "ipykernel" in " ".join(psutil.Process(pid).cmdline())]


def test_the_command_sets_parameters_and_fails_when_a_notebook_does(tmp_path, capsys):
    good = written(tmp_path / "good.ipynb", "print(SIZE)")
    options = ["--to", str(tmp_path / "out"), "--parameter", "SIZE=40 + 2"]
    with pytest.raises(SystemExit) as ended:
        main(["gallery", str(good), *options])
    assert ended.value.code == 0
    assert "42" in Tags((tmp_path / "out" / "good.html").read_text()).text
    bad = written(tmp_path / "bad.ipynb", "1 / 0")
    assert main(["gallery", str(bad), *options]) == 1
    assert "not run to the end: bad.ipynb" in capsys.readouterr().err
    assert main(["gallery", str(good), "--parameter", "SIZE"]) == UsageError.exit_code


def test_what_cannot_be_run_is_said(tmp_path):
    with pytest.raises(UsageError, match="no notebook"):
        write_gallery([tmp_path / "none.ipynb"], tmp_path)
    path = written(tmp_path / "a.ipynb")
    with pytest.raises(UsageError, match="minutes"):
        write_gallery([path], tmp_path, minutes=0)
    for name, value in (("SIZE", "import os"), ("2x", "1"), ("SIZE", "")):
        with pytest.raises(UsageError, match="NAME=EXPRESSION"):
            write_gallery([path], tmp_path, parameters={name: value})


def test_titles_and_questions_may_be_missing():
    empty = new_notebook(cells=[new_markdown_cell("no heading"), new_code_cell("1")])
    assert (title_of(empty), question_of(empty)) == ("", "")
