"""The spec that a command line makes: complete, and with nothing in it that was not asked for."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kata.sandbox import spec

VARIABLE = st.tuples(st.text("ABC", min_size=1, max_size=2), st.text("x=", max_size=3)).map("=".join)


def options(**changes: object) -> spec.ContainerOptions:
    defaults: dict[str, object] = {
        "id": "c1",
        "process": spec.ProcessOptions(args=("true",)),
        "hostname": "box",
    }
    return spec.ContainerOptions(**{**defaults, **changes})  # type: ignore[arg-type]


def test_root_has_dockers_capabilities_and_others_have_none() -> None:
    root = spec.process(spec.ProcessOptions(args=("id",)))
    user = spec.process(spec.ProcessOptions(args=("id",), user=spec.User(1000, 1000)))
    assert "CAP_SYS_ADMIN" not in root["capabilities"]["bounding"]
    assert root["capabilities"]["effective"] == spec.DEFAULT_CAPABILITIES
    assert user["capabilities"]["effective"] == []
    assert user["capabilities"]["permitted"] == []


def test_devices_are_denied_first() -> None:
    rules = spec.container(options())["linux"]["resources"]["devices"]
    assert rules[0] == {"allow": False, "access": "rwm"}
    assert all(rule["allow"] for rule in rules[1:])
    assert not any(rule.get("type") == "b" and rule["access"] != "m" for rule in rules)


def test_limits_and_volumes() -> None:
    made = spec.container(
        options(memory_bytes=1 << 29, cpu_quota=0.5, mounts=(("/run/v0", "/data", True),), readonly=True)
    )
    assert made["linux"]["resources"]["memory"] == {"limit": 1 << 29}
    assert made["linux"]["resources"]["cpu"] == {"quota": 50_000, "period": 100_000}
    assert made["mounts"][-1] == {
        "destination": "/data",
        "type": "bind",
        "source": "/run/v0",
        "options": ["rbind", "ro"],
    }
    assert made["root"]["readonly"]


def test_image_volumes_start_with_what_the_image_has_and_hide_nothing() -> None:
    volumes = (spec.ImageVolume("/srv/data/deep", 0, 0, 0o755), spec.ImageVolume("/srv", 999, 998, 0o2750))
    made = spec.container(options(volumes=volumes, mounts=(("/run/v0", "/srv/data", False),)))
    asked = [mount for mount in made["mounts"] if mount["destination"].startswith("/srv")]
    assert [mount["destination"] for mount in asked] == ["/srv", "/srv/data", "/srv/data/deep"]
    assert asked[0] == {
        "destination": "/srv",
        "type": "tmpfs",
        "source": "tmpfs",
        "options": ["tmpcopyup", "mode=2750", "uid=999", "gid=998"],
    }


def test_path_home_and_term_are_given_only_where_unset() -> None:
    process = spec.process(
        spec.ProcessOptions(args=("sh",), env=("PATH=/x", "A=1"), terminal=True, user=spec.User(home="/root"))
    )
    assert process["env"] == ["TERM=xterm", "PATH=/x", "HOME=/root", "A=1"]


@given(st.lists(VARIABLE), st.lists(VARIABLE))
def test_merged_environment_is_a_dict_update(base: list[str], over: list[str]) -> None:
    def as_dict(entries: tuple[str, ...]) -> dict[str, str]:
        return {entry.partition("=")[0]: entry.partition("=")[2] for entry in entries}

    merged = spec.merge_env(tuple(base), tuple(over))
    assert as_dict(merged) == {**as_dict(tuple(base)), **as_dict(tuple(over))}
    assert len(as_dict(merged)) == len(merged)
