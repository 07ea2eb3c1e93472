"""What docs/online.md shows of other libraries, run with them."""

import pytest

from tests.docs.pages import blocks

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.mark.parametrize("library", ["lightning", "transformers", "accelerate"])
def test_the_example_learns(library, tmp_path, monkeypatch):
    pytest.importorskip(library)
    page = blocks("docs/online.md")
    code = [page[0].code.split("\n\n\n")[0]]
    code += [block.code for block in page if block.why == f"needs {library}"]
    assert len(code) == 2
    monkeypatch.chdir(tmp_path)
    scope = {}
    exec("\n".join(code), scope)
    (optimizer,) = getattr(scope["learnt"], "optimizers", None) or [
        scope["learnt"].optimizer
    ]
    learned = optimizer.learned
    rates = learned[next(name for name in learned if name.startswith("lr"))]
    assert len(rates) >= 150
    assert rates.max() > 100 * 1e-5
