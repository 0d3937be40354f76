"""deploy/observability: boards are current and complete, alerts say what to do, nothing is open."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from scripts.dashboards.__main__ import texts
from tests.patience import WITHIN_S
from tests.unit.deploy import promql
from tests.unit.repository.pages import anchors, prose
from tests.unit.repository.sources import ROOT

FOLDER = promql.OBSERVABILITY
PAGE = ROOT / "docs" / "operate" / "dashboards.md"
PROMTOOL = shutil.which("promtool")
needs_promtool = pytest.mark.skipif(
    PROMTOOL is None, reason="promtool is not on PATH (Debian: prometheus)"
)


def load(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((FOLDER / name).read_text("utf-8"))
    return found


def promtool(*args: str) -> tuple[int, str]:
    """Return the exit code and output of promtool."""
    done = subprocess.run(
        [str(PROMTOOL), *args],
        cwd=FOLDER / "prometheus",
        capture_output=True,
        text=True,
        timeout=WITHIN_S,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def test_the_committed_boards_are_what_the_scripts_write() -> None:
    written = {path.name: path.read_text("utf-8") for path in promql.BOARDS}
    assert written == texts(), "run `make dashboards`"


@pytest.mark.parametrize("path", promql.BOARDS, ids=lambda path: path.stem)
def test_every_panel_says_what_it_shows_and_in_what_unit(path: Path) -> None:
    found = list(promql.panels(promql.board(path)))
    assert len(found) > 10
    for panel in found:
        assert panel["title"]
        assert panel["description"]
        assert panel["fieldConfig"]["defaults"]["unit"]
        assert panel["targets"]
        assert all(target["legendFormat"] for target in panel["targets"])
    titles = [panel["title"] for panel in found]
    assert sorted(titles) == sorted(set(titles))


@pytest.mark.parametrize("path", promql.BOARDS, ids=lambda path: path.stem)
def test_panels_have_places_and_numbers_of_their_own(path: Path) -> None:
    model = promql.board(path)
    rows = [panel for panel in model["panels"] if panel["type"] == "row"]
    placed = [*rows, *promql.panels(model)]
    assert len({panel["id"] for panel in placed}) == len(placed)
    taken: set[tuple[int, int]] = set()
    for panel in placed:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        across = range(place["x"], place["x"] + place["w"])
        down = range(place["y"], place["y"] + place["h"])
        cells = {(x, y) for x in across for y in down}
        assert not cells & taken, panel["title"]
        taken |= cells


@pytest.mark.parametrize("path", promql.BOARDS, ids=lambda path: path.stem)
def test_every_query_is_of_the_deployment_that_was_chosen(path: Path) -> None:
    for panel in promql.panels(promql.board(path)):
        for target in panel["targets"]:
            for found in promql.selectors(target["expr"]):
                assert ("job", "=~", "$deployment") in found.matchers, panel["title"]


def test_variables_of_queries_and_links_exist() -> None:
    uids = {promql.board(path)["uid"] for path in promql.BOARDS}
    for path in promql.BOARDS:
        model = promql.board(path)
        names = {variable["name"] for variable in model["templating"]["list"]}
        used = {
            value.removeprefix("$")
            for panel in promql.panels(model)
            for target in panel["targets"]
            for found in promql.selectors(target["expr"])
            for _, _, value in found.matchers
            if value.startswith("$")
        }
        assert used <= names
        assert {link["url"].removeprefix("/d/") for link in model["links"]} <= uids


def test_every_alert_says_what_to_do_and_where_more_is_said() -> None:
    found = promql.alerts()
    assert len({alert["alert"] for alert in found}) == len(found) > 10
    for alert in found:
        assert alert["labels"]["severity"] in {"critical", "warning"}
        notes = alert["annotations"]
        assert set(notes) == {"summary", "action", "runbook"}
        assert "$labels.job" in notes["summary"], alert["alert"]
        page, _, anchor = notes["runbook"].partition("#")
        assert anchor in anchors((ROOT / page).read_text("utf-8")), alert["alert"]


def test_the_page_has_every_alert_with_its_severity_and_no_other() -> None:
    lines = prose(PAGE.read_text("utf-8")).splitlines()
    rows = [line.split("|") for line in lines if line.startswith("| `Pdserve")]
    documented = {row[1].strip(" `"): row[2].strip() for row in rows}
    assert documented == {a["alert"]: a["labels"]["severity"] for a in promql.alerts()}


def test_every_alert_has_a_test_in_which_it_fires() -> None:
    text = (FOLDER / "prometheus" / "rules_test.yml").read_text("utf-8")
    assert [a["alert"] for a in promql.alerts() if f'alertname="{a["alert"]}"' not in text] == []


@needs_promtool
def test_promtool_finds_the_rules_and_the_configuration_sound() -> None:
    code, said = promtool("check", "config", "prometheus.yml")
    assert code == 0, said
    code, said = promtool("check", "rules", "--lint-fatal", "rules.yml")
    assert code == 0, said


@needs_promtool
def test_alerts_fire_when_they_should_and_no_other_does() -> None:
    code, said = promtool("test", "rules", "rules_test.yml")
    assert code == 0, said


def test_images_are_pinned_and_nothing_listens_beyond_loopback() -> None:
    services = load("compose.yaml")["services"]
    assert set(services) == {"prometheus", "grafana", "tempo"}
    for service in services.values():
        tag = service["image"].partition(":")[2]
        assert tag
        assert tag != "latest"
        assert service["network_mode"] == "host"
        assert "ports" not in service
    flags = dict(flag.lstrip("-").split("=", 1) for flag in services["prometheus"]["command"])
    assert flags["web.listen-address"] == "127.0.0.1:9090"
    assert services["grafana"]["environment"]["GF_SERVER_HTTP_ADDR"] == "127.0.0.1"
    tempo = load("tempo/tempo.yaml")
    server, otlp = tempo["server"], tempo["distributor"]["receivers"]["otlp"]["protocols"]
    assert {server["http_listen_address"], server["grpc_listen_address"]} == {"127.0.0.1"}
    assert [otlp[name]["endpoint"] for name in ("grpc", "http")] == [
        "127.0.0.1:4317",
        "127.0.0.1:4318",
    ]


def test_what_is_mounted_exists_and_is_where_the_programs_look() -> None:
    services = load("compose.yaml")["services"]
    mounts = {
        inside: source
        for service in services.values()
        for source, inside in (volume.split(":")[:2] for volume in service["volumes"])
        if source.startswith("./")
    }
    assert all((FOLDER / source).is_dir() for source in mounts.values())
    (provider,) = load("grafana/provisioning/dashboards/pdserve.yaml")["providers"]
    assert mounts[provider["options"]["path"]] == "./grafana/dashboards"
    home = services["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert Path(home).name in {path.name for path in promql.BOARDS}
    sources = load("grafana/provisioning/datasources/pdserve.yaml")["datasources"]
    assert {source["type"]: source["url"] for source in sources} == {
        "prometheus": "http://127.0.0.1:9090",
        "tempo": "http://127.0.0.1:3200",
    }
