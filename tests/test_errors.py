# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
import json

import pytest

from roi_fusion.errors import InputError, causes_of, import_needed, input_error_behind


def test_a_package_that_only_some_have_is_there_or_named() -> None:
    assert import_needed("json", "json: expected it, found none") is json
    with pytest.raises(InputError, match=r"^x: expected the package no_such_package, found none$"):
        import_needed("no_such_package", "x: expected the package no_such_package, found none")


def test_the_sentence_behind_what_wraps_it_is_found() -> None:
    def wrap() -> None:
        try:
            raise InputError("a.nii: expected X, got Y")
        except InputError as e:
            raise RuntimeError("applying transform") from e

    with pytest.raises(RuntimeError) as wrapped:
        wrap()
    assert [type(c) for c in causes_of(wrapped.value)] == [RuntimeError, InputError]
    assert str(input_error_behind(wrapped.value)) == "a.nii: expected X, got Y"
    assert input_error_behind(ValueError("other")) is None
