"""What the documentation says, done."""

import inspect
import re

import pytest
from pages import PageError, Reader
from running import REPOSITORY

from medbreach import plugins

PAGES = [REPOSITORY / "README.md", *sorted(REPOSITORY.glob("docs/**/*.md"))]
SLOW = {
    "README.md",
    "docs/how-to/check-a-model.md",
    "docs/how-to/pipeline.md",
    "docs/how-to/train-a-federation.md",
    "docs/how-to/weigh-defenses.md",
    "docs/how-to/write-a-defense.md",
    "docs/how-to/write-an-attack.md",
    "docs/tutorial/first-audit.md",
}


def marked(page):
    name = str(page.relative_to(REPOSITORY))
    slow = name in SLOW or name.startswith("docs/defenses/")
    return pytest.param(page, id=name, marks=pytest.mark.slow if slow else ())


@pytest.fixture
def reader(tmp_path):
    someone = Reader(tmp_path)
    yield someone
    someone.close()


@pytest.mark.parametrize("page", [marked(p) for p in PAGES if "```" in p.read_text()])
def test_page(page, reader):
    reader.follow(page.read_text())


def test_every_hook_is_documented_with_its_arguments():
    page = (REPOSITORY / "docs" / "how-to" / "hooks.md").read_text()
    headings = re.findall(r"^## `(medbreach_\w+)\((.*)\)`$", page, re.M)
    hook = plugins.manager().hook
    specs = {name: getattr(hook, name).spec.argnames for name in plugins.hook_names()}
    assert dict(headings) == {name: ", ".join(arguments) for name, arguments in specs.items()}


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md"])
def test_links_that_the_site_does_not_check(name):
    for target in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", (REPOSITORY / name).read_text()):
        assert (REPOSITORY / target).exists(), f"{name} links to {target}"


# The reader itself.


def page(*parts):
    return inspect.cleandoc("\n".join(parts)) + "\n"


def test_a_page_that_works(reader):
    reader.follow(
        page(
            "```python\n# file: sub/say.py\nTHREE = 3\n```",
            "```python\nfrom sub.say import THREE\n```",
            "```python\nprint(THREE, 'then', id(THREE))\n```",
            "```text\n3 then ...\n```",
            "- in a list\n\n  ```sh\n  echo 1; ls\n  ```\n\n  ```text\n  1\n  sub\n  ```",
            "```yaml\na: [1, 2]\n```",
            "<!-- not run: it is\nan example -->\n```sh\nfalse\n```",
        )
    )


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("\n```sh\nfalse\ntrue\n```\n", "line 2: fails with"),
        ("```sh\necho oh no; exit 3\n```\n", "oh no"),
        ("```python\n1 / 0\n```\n", "ZeroDivisionError"),
        ("```sh\necho 1\n```\n```text\n2\n```\n", "line 4: is not what is printed, which is\n1"),
        ("```text\n2\n```\n", "is the output of no block before it"),
        ("```fortran\nSTOP\n```\n", "nobody can run 'fortran'"),
        ("```\nplain\n```\n", "nobody can run ''"),
        ("```sh\ntrue\n", "a fence is not closed"),
        ("<!-- not run: -->\n```sh\nfalse\n```\n", "fails with"),
    ],
    ids=lambda value: value.split()[-1] if "`" not in value else "",
)
def test_a_page_that_does_not(reader, text, sentence):
    with pytest.raises(PageError) as fault:
        reader.follow(text)
    assert sentence in str(fault.value)
