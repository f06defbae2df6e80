from __future__ import annotations

import copy
import pickle

import pytest

from engines import errors


def all_classes(root: type[errors.ArtExportError]) -> list[type[errors.ArtExportError]]:
    return [root] + [found for child in root.__subclasses__() for found in all_classes(child)]


def test_a_user_error_says_three_things_on_three_lines() -> None:
    error = errors.PictureError(got="a JPEG", expected="a PNG", fix="give the PNG")
    assert str(error).split("\n") == [
        "got:      a JPEG",
        "expected: a PNG",
        "fix:      give the PNG",
    ]


def test_exit_codes_tell_a_failed_check_from_bad_input() -> None:
    assert errors.CheckFailed("no").exit_code == 1
    for kind in all_classes(errors.UserError):
        assert kind.exit_code == 2


@pytest.mark.parametrize("kind", all_classes(errors.UserError))
def test_errors_survive_copying_and_pickling(kind: type[errors.UserError]) -> None:
    error = kind("a", "b", "c")
    for again in (copy.copy(error), pickle.loads(pickle.dumps(error))):
        assert type(again) is kind
        assert (again.got, again.expected, again.fix) == ("a", "b", "c")


def test_the_tree_in_the_docstring_names_every_class() -> None:
    assert errors.__doc__ is not None
    own = [k for k in all_classes(errors.ArtExportError) if k.__module__ == errors.__name__]
    for kind in own:
        assert kind.__name__ in errors.__doc__
