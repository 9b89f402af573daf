"""README and docs/: scripts accept the commands, links lead somewhere, Python compiles, and figures agree."""
import ast
import functools
import inspect
import json
import re
import runpy
import shlex
import sys
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import pytest
from absl import flags

import modern_cnn
import modern_cnn.data
from modern_cnn import cli, models, runtime, settings
from modern_cnn.sweeps import grid
from scripts.publish import site

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")] + sorted(
    [*ROOT.glob("docs/**/*.md"), *ROOT.glob("docs/notebooks/*.ipynb")])


def read(path):
    """A page, or what stands between the code of a notebook."""
    if path.suffix == ".md":
        return path.read_text()
    cells = json.loads(path.read_text())["cells"]
    return "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")


TEXTS = {str(path.relative_to(ROOT)): read(path) for path in PAGES}
FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^ *```$", re.DOTALL | re.MULTILINE)
SETTING = re.compile(r"[A-Z_0-9]+=")


class Command(NamedTuple):
    page: str
    words: tuple[str, ...]
    whole: bool  # in a block of its own; inside a sentence flags that are needed may be left out


def blocks(text, language):
    return [body for _, found, body in FENCE.findall(text) if found == language]


def parts(line):
    """The commands of a line of a shell, without the variables set before them: && ends one."""
    words = shlex.split(line, comments=True)
    while words:
        end = words.index("&&") if "&&" in words else len(words)
        command, words = words[:end], words[end + 1:]
        while command and SETTING.match(command[0]):
            del command[0]
        if command and "python" in Path(command[0]).name:
            command[0] = "python"
        if command and command[0] == "modern-cnn":  # of an installed package
            command[:2] = ["python", f"scripts/{command[1]}.py"]
            command = cli.find_configs(command)
        yield tuple(command)


def find_commands():
    for page, text in TEXTS.items():
        for block in blocks(text, "") + blocks(text, "bash"):
            for line in re.sub(r"\\\n\s*", "", block).splitlines():
                if line.strip().startswith("--config."):  # flags that go on with a command above
                    line = f"python scripts/train.py --config=configs/lenet.py {line}"
                if re.match(rf"(\S*\bpython3?|modern-cnn|pip|bash|{SETTING.pattern}\S+) ", line):
                    yield from (Command(page, words, True) for words in parts(line))
        for span in re.findall(r"`([^`\n]+(?:\n[^`\n]+)?)`", FENCE.sub("", text)):
            if match := re.match(r"(?:python )?(scripts/\w+\.py\b.*|-m pytest .*)|(bash scripts/.*)", span, re.DOTALL):
                yield from (Command(page, words, False) for words in
                            parts(match[2] or f"python {match[1]}".replace("\n", " ")))


COMMANDS = list(dict.fromkeys(find_commands()))
SCRIPTS = [command for command in COMMANDS if command.words[0] == "python" and "scripts/" in command.words[1]]
OTHERS = [command for command in COMMANDS if command not in SCRIPTS]


def name(command):
    return f"{command.page}: {' '.join(command.words[1:])[:90]}"


def test_commands_are_found():
    """None escapes: as many as a plain search finds, and more than nothing for each script."""
    lines = [(page, line) for page, text in TEXTS.items() for line in text.splitlines()]
    plain = {(page, line.split("\\")[0].split("#")[0].strip()) for page, line in lines
             if line.startswith("python scripts/")}
    found = {(command.page, tuple(command.words)) for command in SCRIPTS}
    for page, line in plain:
        words = tuple(shlex.split(line))
        assert any(page == there and words == longer[:len(words)] for there, longer in found), line
    assert len(plain) > 60
    for script in ("train", "evaluate", "sweep", "benchmark", "summarize", "import_weights", "predict", "export",
                   "visualize", "pages", "scaling"):
        assert any(f"scripts/{script}.py" == command.words[1] for command in SCRIPTS), script


@pytest.fixture
def parse(monkeypatch):
    """Return parse: parse(script, words, whole) -> the flags' values and the arguments that are no flags."""
    before = set(flags.FLAGS)

    def parse(script, words, whole):
        monkeypatch.setattr(sys, "argv", [script, *words])
        text = (ROOT / script).read_text()
        runpy.run_path(str(ROOT / script))
        for required in re.findall(r'mark_flag_as_required\("(\w+)"\)', text) if whole else ():
            flags.mark_flag_as_required(required)
        if not whole:
            for added in set(flags.FLAGS) - before:
                flags.FLAGS[added].validators.clear()
        rest = flags.FLAGS([script, *words])[1:]
        assert not rest or "positional=True" in text, f"{script} takes no arguments: {rest}"
        return {added: flags.FLAGS[added].value for added in set(flags.FLAGS) - before if "." not in added}

    yield parse
    flags.FLAGS.unparse_flags()
    for added in set(flags.FLAGS) - before:
        delattr(flags.FLAGS, added)


@functools.cache  # many commands train the same network
def trace(options, shape):
    net = models.build(**dict(ast.literal_eval(options)))
    jax.eval_shape(lambda: net.init(jax.random.key(0), jnp.zeros(shape)))


@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")  # of ml_collections
@pytest.mark.parametrize("command", SCRIPTS, ids=name)
def test_a_script_accepts_a_command(command, parse, monkeypatch, tmp_path):
    _, script, *words = command.words
    monkeypatch.chdir(ROOT)
    if new := "configs/allcnn.py" in " ".join(words):  # the config that docs/adding.md shows, for a network to come
        text, = (block for block in blocks(TEXTS["docs/adding.md"], "python") if "def get_config" in block)
        (tmp_path / "allcnn.py").write_text(text)
        words = [word.replace("configs/allcnn.py", str(tmp_path / "allcnn.py")) for word in words]
    if not command.whole:  # --what=WHAT, --layout=...: a sentence may leave a value open
        words = [word for word in words if not re.search(r"=([A-Z]+|\.\.\.)$", word)]
    values = parse(script, words, command.whole)
    named = [values.get("model") or "", *(values.get("models") or ())]
    assert {*filter(None, named)} - {"NAME", "allcnn"} <= {*models.MODELS}
    config = values.get("config")
    if config is None or new:
        return
    if sweeps := values.get("sweep"):
        grid.parse(sweeps, config)
    settings.read(config)
    if not re.search(r"--config\.(model|data\.image_size|data\.source)", " ".join(words)):
        return  # test_house builds the networks that the configs name
    size, channels = config.data.image_size or 28, 3 if config.data.source in ("cifar10", "folder:DIR") else 1
    trace(repr(sorted(config.model.items())), (1, size, size, channels))


@pytest.mark.parametrize("page", TEXTS)
def test_fields_exist(page):
    """In sentences and tables too."""
    options = {f"model.{option}" for network in models.MODELS.values()
               for option in inspect.signature(network).parameters}
    for field in re.findall(r"--config\.([\w.]+)=", TEXTS[page]):
        assert field in settings.FIELDS or field in options or field.rpartition(".")[2].isupper(), field


@pytest.mark.parametrize("command", OTHERS, ids=name)
def test_the_files_of_another_command_exist(command):
    """Of pip, pytest and bash; but for a script that the page itself shows."""
    shown = re.findall(r"This is `([\w./]+)`", TEXTS[command.page])
    for word in command.words[1:]:
        if re.fullmatch(r"(requirements|tests/|scripts/)[\w./-]*", word) and "NAME" not in word and word not in shown:
            assert (ROOT / word).exists(), word


def slugs(text):
    """The anchors of a page's headings, as the repository's site and mkdocs make them."""
    headings = re.findall(r"^#+ (.*)$", FENCE.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", TEXTS)
def test_links_lead_somewhere(page):
    text = FENCE.sub("", TEXTS[page])
    targets = re.findall(r"\]\((?!http)([^)#\s]*)(?:#([^)\s]+))?\)", text)
    assert len(targets) == text.count("](") - text.count("](http")
    for target, anchor in targets:
        path = (ROOT / page).parent / target if target else ROOT / page
        assert path.exists(), target
        assert not anchor or anchor in slugs(path.read_text()), f"{target}#{anchor}"


@pytest.mark.parametrize("page", TEXTS)
def test_python_compiles(page):
    for block in blocks(TEXTS[page], "python"):
        ast.parse(block)


@pytest.mark.parametrize("page", ["README.md", "docs/training.md"])
def test_the_python_of_a_user_runs(page, monkeypatch):
    """Traced, not computed: the shapes say enough."""
    net, images = models.build("lenet_bn"), jnp.zeros((2, 28, 28, 1))
    block, = blocks(TEXTS[page], "python")
    scope = {"images": images, "x": images, **dict.fromkeys(("scale", "var"), jnp.ones(1)),
             **dict.fromkeys(("bias", "mean"), jnp.zeros(1))}

    def load(workdir):
        assert workdir == {"README.md": "runs/demo"}.get(page, "runs/mine")
        return net, net.init(jax.random.key(1), images, train=False)

    def run():
        exec(block, scope)
        return scope["logits"], scope["new"]

    monkeypatch.setattr(modern_cnn, "load", load)
    monkeypatch.setattr(modern_cnn, "train", lambda *args, **fields: None)
    monkeypatch.setattr(modern_cnn.data, "load", lambda *args, **fields: (images, None))
    logits, new = jax.eval_shape(run)
    assert logits.shape == (2, 7)
    assert {*new} == {"batch_stats"}


def test_the_table_of_a_network_is_what_the_script_prints(parse, monkeypatch, capsys):
    text = TEXTS["docs/networks.md"]
    assert "python scripts/summarize.py --model=alexnet_d2l\n" in text
    monkeypatch.setattr(sys, "argv", ["summarize.py", "--model=alexnet_d2l"])
    monkeypatch.setattr(runtime, "configure", lambda: None)
    script = runpy.run_path(str(ROOT / "scripts/summarize.py"))
    flags.FLAGS(sys.argv)
    script["main"]()
    assert f"```\n{capsys.readouterr().out.strip()}\n```" in text


def test_the_readme_is_short_and_its_figures_are_those_of_the_pages():
    readme, results = TEXTS["README.md"], TEXTS["docs/results.md"]
    assert len(readme.splitlines()) <= 140
    figures = re.findall(r"\d+\.\d+ (?:± \d+\.\d+ )?% \(n = \d+\)", readme)
    assert len(figures) > 8
    assert [figure for figure in figures if figure not in results] == []
    assert readme.count("±") == sum("±" in figure for figure in figures) + readme.count("mean ±")


def test_the_test_command_of_the_readme_is_what_ci_runs():
    *_, command = (ROOT / ".ci/run").read_text().splitlines()
    assert command in [block.strip() for block in blocks(TEXTS["README.md"], "")]


def test_every_page_is_in_the_site():
    listed = re.findall(r"(\S+\.(?:md|ipynb))$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    assert sorted(listed) == sorted(page.removeprefix("docs/") for page in TEXTS if page.startswith("docs/"))


@pytest.mark.parametrize(("text", "url", "shown"), [
    ("[vgg.py](../modern_cnn/models/vgg.py)", None, "`vgg.py`"),
    ("[`modern_cnn`](../modern_cnn)", None, "`modern_cnn`"),
    ("[vgg.py](../configs/vgg.py#L3)", "https://host/a/", "[vgg.py](https://host/a/blob/main/configs/vgg.py#L3)"),
    ("[speed](speed.md#a), ![p](images/p.png)", None, "[speed](speed.md#a), ![p](images/p.png)"),
    ("a\n<!-- api: modern_cnn.layers -->\nb", None, "a\n::: modern_cnn.layers\nb")])
def test_the_site_has_no_link_out_of_its_pages(text, url, shown):
    assert site.rewrite(text, "page.md", url) == shown
    inner = "[results](../results.md)"
    assert site.rewrite(inner, "ablations/page.md") == inner
