from pathlib import Path

import pytest

from pipelines.core.lease_profiles import FAST
from pipelines.errors import MisconfiguredError
from services.demo.local_config import arena_of, clean
from services.settings import load

GOOD = """
profile = "fast"
state_dir = "state"
[runs.gpt]
first_region = "east"
standby = ["west"]
[witness]
bucket = "w"
[regions]
"""


def _file(folder: Path, text: str) -> Path:
    path = folder / "farside.toml"
    path.write_text(text)
    return path


def test_a_variable_overrides_the_file(tmp_path: Path) -> None:
    """The environment wins over the file, key by key."""
    settings = load(_file(tmp_path, GOOD), {"FARSIDE_WITNESS__BUCKET": "other", "FARSIDE_NODE_DIR": "ignored"})
    assert (settings.profile, settings.witness.bucket) == ("fast", "other")


@pytest.mark.parametrize(
    ("text", "environment", "key", "origin"),
    [
        (GOOD.replace("profile", "profil"), {}, "profil", "farside.toml"),
        (GOOD.replace('bucket = "w"', ""), {}, "witness.bucket", "farside.toml"),
        (GOOD, {"FARSIDE_PROFILE": "slow"}, "profile", "FARSIDE_PROFILE"),
        (GOOD, {"FARSIDE_WITNES__BUCKET": "other"}, "witnes", "FARSIDE_WITNES__BUCKET"),
        (GOOD, {"FARSIDE_WITNESS__BUCKETT": "other"}, "witness.buckett", "FARSIDE_WITNESS__BUCKETT"),
        (GOOD, {"FARSIDE_PROFILE__X": "other"}, "profile.x", "FARSIDE_PROFILE__X"),
        (GOOD, {"FARSIDE_RUNS__GPT__STANDBY": "west"}, "runs.gpt.standby", "FARSIDE_RUNS__GPT__STANDBY"),
    ],
)
def test_a_wrong_setting_is_one_line_with_key_and_origin(
    tmp_path: Path, text: str, environment: dict[str, str], key: str, origin: str
) -> None:
    """An unknown key or table, a missing value and a bad value each name their key and where it came from."""
    with pytest.raises(MisconfiguredError) as refused:
        load(_file(tmp_path, text), environment)
    line = str(refused.value)
    assert "\n" not in line
    assert line.startswith(f"{key}: ")
    assert origin in line


OWN = "[profiles.steady]\nlease_s = 30.0\nrenew_s = 5.0\npoll_s = 2.0\nmargin_s = 3.0\n"


def test_a_profile_of_ones_own_is_checked_at_the_start(tmp_path: Path) -> None:
    """An unsafe combination is refused with the inequality that fails; those that ship cannot be redefined."""
    steady = GOOD.replace('"fast"', '"steady"') + OWN
    assert load(_file(tmp_path, steady), {}).lease_profile.challenger_wait_s == pytest.approx(33.3)
    assert load(_file(tmp_path, GOOD), {}).lease_profile is FAST
    with pytest.raises(MisconfiguredError, match=r"2 \* renew_s <= lease_s \* \(1 - rho\) - margin_s"):
        load(_file(tmp_path, steady.replace("renew_s = 5.0", "renew_s = 15.0")), {})
    with pytest.raises(MisconfiguredError, match="fast is a profile that ships"):
        load(_file(tmp_path, GOOD + OWN.replace("steady", "fast")), {})
    with pytest.raises(MisconfiguredError, match=r"profile: .*'steady' is none of default, fast"):
        load(_file(tmp_path, GOOD.replace('"fast"', '"steady"')), {})


def _runs(count: int, more: str = "") -> str:
    runs = (f'[runs.r{number}]\nfirst_region = "east"\ngroup = "g"\n' for number in range(count))
    return GOOD + "\n" + "\n".join(runs) + more


def test_runs_of_a_lease_group_are_alike_and_fit_into_one_object(tmp_path: Path) -> None:
    """Another placement, or more than one write can hold, is refused with the names and what to do."""
    assert load(_file(tmp_path, _runs(64)), {}).groups() == {f"r{number}": "g" for number in range(64)}
    with pytest.raises(MisconfiguredError, match="65 runs, 64 fit"):
        load(_file(tmp_path, _runs(65)), {})
    other = '[runs.other]\nfirst_region = "east"\nstandby = ["west"]\ngroup = "g"\n'
    with pytest.raises(MisconfiguredError, match="r0, other must have the same first_region and standby"):
        load(_file(tmp_path, _runs(1, other)), {})
    with pytest.raises(MisconfiguredError, match=r"runs\.r0\.group"):
        load(_file(tmp_path, _runs(1).replace('"g"', '"a/b"')), {})


def test_two_stacks_whose_folders_end_alike_have_arenas_of_their_own(tmp_path: Path) -> None:
    """The name holds a digest of the whole path: clearing one stack's arena leaves the other's."""
    folders = [tmp_path / name / "farside" / "demo" for name in ("one", "two")]
    arenas = [arena_of(folder, "west") for folder in folders]
    assert arenas[0] != arenas[1]
    for arena in arenas:
        arena.mkdir()
    try:
        clean(folders[0])
        assert [arena.exists() for arena in arenas] == [False, True]
    finally:
        clean(folders[1])
