"""What the verbs of a method's `files` module print."""

from __future__ import annotations

from jaxvl.arguments import Parser


def predicted(files, loaded, capsys, words, as_json=False):
    """What `jaxvl predict WORDS` prints with a loaded run, as `(output, errors)`."""
    parser = Parser(prog="predict")
    files.add_arguments(parser)
    assert files.run(loaded, parser.parse_args([str(word) for word in words]), as_json) == 0
    return capsys.readouterr()
