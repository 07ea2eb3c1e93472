"""Pages whose Python compares methods, on the cluster that tests share."""

import pytest

from tests.docs.pages import require_printed
from tests.docs.test_pages import WITH_RAY

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("cluster")]


@pytest.mark.parametrize("page", sorted(WITH_RAY))
def test_python_runs_and_prints_what_the_page_says(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    require_printed(page)
