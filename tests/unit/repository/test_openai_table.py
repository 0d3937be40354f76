from router.edge.openai.field_table import table
from tests.unit.repository.sources import ROOT


def test_the_table_of_fields_is_what_the_request_models_say() -> None:
    page = (ROOT / "docs" / "use" / "openai.md").read_text("utf-8")
    assert page.endswith(table()), "run `python -m router.edge.openai.field_table`"
