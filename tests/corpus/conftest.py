# SPDX-License-Identifier: Apache-2.0
"""What tests of preparing a corpus share."""

from typing import Any

import pytest

from corpus.karaoke import save_tokenizers


@pytest.fixture(scope="session")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Tiny tokenizers, as `TokenizerOptions` names them."""
    return save_tokenizers(tmp_path_factory.mktemp("tokenizers"))
