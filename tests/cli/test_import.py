"""`voltwire import`, against a real server."""

import re
import zipfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from app.cli.client import Address, Api, ClientError
from app.cli.import_files import files_of
from app.cli.trigger import trigger
from app.imports.options import PARAMETERS
from tests.operators import run
from tests.system.deployment import Deployment, deployed

HEADER = "meter_number,start_at,consumption\n"


@pytest.fixture(scope="module")
async def served(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Deployment]:
    async with deployed(["serve"], tmp_path_factory.mktemp("import")) as running:
        yield running


async def consented(served: Deployment) -> tuple[str, str]:
    """A new account's key, and the number of its meter, which takes readings."""
    key = (await served.account()).key
    async with Api(Address.parse(served.apis[0].url), key) as api:
        await trigger(api, "hosted_consent.approved", lambda _: None)
        [meter] = (await api.ask("{ meters { nodes { number } } }"))["meters"]["nodes"]
    return key, meter["number"]


async def test_a_folder_goes_in_and_the_report_is_a_table(served: Deployment, tmp_path: Path) -> None:
    key, number = await consented(served)
    for day in (1, 2):
        (tmp_path / f"{day}.csv").write_text(f"{HEADER}{number},2024-05-0{day}T00:00:00Z,1.5\n")
    url = served.apis[0].url
    code, output, errors = await run(served, "import", str(tmp_path), "--dry-run", "--url", url, key=key)
    assert (code, errors.strip()) == (0, "")
    rows = [line.split() for line in output.splitlines()]
    assert rows[0] == [
        "File",
        "Profile",
        "Status",
        "Meters",
        "Half-hours",
        "New",
        "or",
        "changed",
        "Problems",
    ]
    assert rows[1:] == [[f"{day}.csv", "voltwire", "PREVIEW", "1", "1", "0", "0"] for day in (1, 2)]
    code, output, _ = await run(served, "import", str(tmp_path / "*.csv"), "--url", url, key=key)
    assert code == 0
    assert [line.split()[2:] for line in output.splitlines()[1:]] == [["COMPLETED", "1", "1", "1", "0"]] * 2


async def test_a_problem_is_told_with_its_line_and_the_exit_code(served: Deployment, tmp_path: Path) -> None:
    key, number = await consented(served)
    file, url = tmp_path / "wrong.csv", served.apis[0].url
    file.write_text(f"{HEADER}{number},2024-05-01T00:00:00Z,1\n{number},2024-05-01T00:30:00Z,-1\n")
    code, output, _ = await run(served, "import", str(file), "--url", url, key=key)
    assert code == 1
    assert "FAILED" in output
    assert "wrong.csv: line 3" in output
    code, output, _ = await run(served, "import", str(file), "--skip", "--url", url, key=key)
    assert code == 1
    assert "COMPLETED" in output


async def test_a_file_that_is_not_taken_leaves_the_report_of_those_before(
    served: Deployment, tmp_path: Path
) -> None:
    key, number = await consented(served)
    (tmp_path / "a.csv").write_text(f"{HEADER}{number},2024-05-01T00:00:00Z,1.5\n")
    (tmp_path / "b.csv").write_text("")
    code, output, errors = await run(served, "import", str(tmp_path), "--url", served.apis[0].url, key=key)
    assert code == 1
    assert [line.split()[:3] for line in output.splitlines()[1:]] == [["a.csv", "voltwire", "COMPLETED"]]
    refused = "b.csv: The file is empty, or the request has none: send one with readings."
    assert errors.strip() == refused
    for name, told in (("c.csv", "c.csv after it was"), ("d.csv", "c.csv and 1 more after it were")):
        (tmp_path / name).write_text(HEADER)
        _, _, errors = await run(served, "import", str(tmp_path), "--url", served.apis[0].url, key=key)
        assert errors.strip() == f"{refused} {told} not sent."


async def test_what_cannot_be_done_is_a_sentence(served: Deployment, tmp_path: Path) -> None:
    key, _ = await consented(served)
    url = served.apis[0].url
    code, output, errors = await run(served, "import", str(tmp_path / "none.csv"), "--url", url, key=key)
    assert (code, output, errors) == (1, "", f"There is no file {tmp_path / 'none.csv'}.\n")
    file = tmp_path / "a.csv"
    file.write_text(HEADER)
    code, output, errors = await run(served, "import", str(file), "--profile", "none", "--url", url, key=key)
    assert (code, output) == (1, "")
    assert errors.strip().startswith("profile must be one of ")


async def test_nothing_of_a_file_commands_the_terminal(served: Deployment, tmp_path: Path) -> None:
    key, number = await consented(served)
    url, command = served.apis[0].url, "\x1b]0;owned\x07\x1b[2J\u202e"
    rows = f"{number},2024-05-01T00:00:00Z,1{command}\n{command},2024-05-01T00:30:00Z,1\n"
    (tmp_path / f"a{command}.csv").write_text(HEADER + rows)
    (tmp_path / "b\udcff.csv").write_text(f"{command},no,header\n1,2,3\n")
    with zipfile.ZipFile(tmp_path / "c.zip", "w") as archive:
        archive.writestr(f"in{command}side.csv", HEADER + rows)
    code, output, errors = await run(served, "import", str(tmp_path), "--url", url, key=key)
    assert (code, errors.strip()) == (1, "")
    assert "owned" in output
    assert all(one.isprintable() for one in output.replace("\n", ""))


async def test_the_options_are_those_of_the_route(served: Deployment, tmp_path: Path) -> None:
    """Sentences of refusals name parameters: each is an option, with the words in lower case."""
    _, output, _ = await run(served, "import", "--help")
    for name in PARAMETERS:
        # The name comes from the file.
        option = "--" + re.sub("[A-Z]", lambda one: f"-{one[0].lower()}", name)
        assert name == "fileName" or option in output, name
    key, number = await consented(served)
    file, url = tmp_path / "half-hours.csv", served.apis[0].url
    file.write_text("Day,Clock,Used\n01/05/2024,00:00,2500\n")
    columns = '{"date": "Day", "time": "Clock", "value": "Used"}'
    given = ("--profile", "rows", "--meter", number, "--timezone", "london", "--unit", "Wh")
    more = ("--channel", "EXPORT", "--on-problem", "refuse", "--columns", columns, "--url", url)
    code, output, errors = await run(served, "import", str(file), *given, *more, key=key)
    assert (code, errors.strip()) == (0, ""), output
    async with Api(Address.parse(url), key) as api:
        read = await api.ask(
            '{ meters { nodes { intervalData(from: "2024-04-30T23:00:00Z", to: "2024-04-30T23:30:00Z",'
            " granularity: HALF_HOUR, channel: EXPORT) { intervals { startAt consumption } } } } }"
        )
    [meter] = read["meters"]["nodes"]
    found = [(one["startAt"][:16], one["consumption"]) for one in meter["intervalData"]["intervals"]]
    assert found == [("2024-04-30T23:00", "2.5")]


def test_files_are_named_by_paths_folders_and_patterns(tmp_path: Path) -> None:
    for name in ("a.csv", "b.csv", ".hidden", "c.txt"):
        (tmp_path / name).write_text("x")
    names = [one.name for one in files_of([str(tmp_path), str(tmp_path / "a.csv")])]
    assert names == ["a.csv", "b.csv", "c.txt"]
    assert [one.name for one in files_of([str(tmp_path / "*.csv")])] == ["a.csv", "b.csv"]
    with pytest.raises(ClientError):
        files_of([str(tmp_path / "*.zip")])
