"""GetMetrics' text: by the grammar of Prometheus's exposition format, and by numbers that can be known."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from kata.agent import metrics
from kata.agent.metrics import Family, Sample

NAME = "[a-zA-Z_:][a-zA-Z0-9_:]*"
LABEL = r'[a-zA-Z_][a-zA-Z0-9_]*="(?:[^"\\\n]|\\["\\n])*"'
SAMPLE = re.compile(rf"({NAME})(?:\{{({LABEL}(?:,{LABEL})*)\}})? (-?\d+(?:\.\d+)?(?:e[+-]?\d+)?)")
HELP = re.compile(rf"# HELP ({NAME}) ([^\n]+)")
TYPE = re.compile(rf"# TYPE ({NAME}) (gauge|counter)")
AGENT = "scrape_count threads total_time total_vm total_rss proc_status proc_stat io_stat"
GUEST = "load tasks cpu_time vm_stat netdev_stat diskstat meminfo"
PROCESS = "cpu_seconds_total virtual_memory_bytes resident_memory_bytes start_time_seconds open_fds max_fds"
EXPECTED = {
    *(f"kata_agent_{name}" for name in AGENT.split()),
    *(f"kata_guest_{name}" for name in GUEST.split()),
    *(f"process_{name}" for name in PROCESS.split()),
}


def parse(text: str) -> dict[str, dict[str, float]]:
    """Values by labels by name. Asserts the whole grammar: HELP, TYPE, samples; no family, no sample twice."""
    found: dict[str, dict[str, float]] = {}
    name = ""
    for line in text.removesuffix("\n").split("\n"):
        if match := HELP.fullmatch(line):
            name = match[1]
            assert name not in found
            found[name] = {}
        elif match := TYPE.fullmatch(line):
            assert (match[1], found[name]) == (name, {})
        else:
            match = SAMPLE.fullmatch(line)
            assert match, line
            assert match[1] == name
            labels = match[2] or ""
            assert labels not in found[name], line
            found[name][labels] = float(match[3])
    assert all(found.values())
    return found


def test_the_real_text_is_well_formed_and_complete() -> None:
    found = parse(metrics.render())
    assert set(found) >= EXPECTED
    assert set(found) <= EXPECTED | {"kata_guest_filesystem_bytes", "kata_guest_filesystem_inodes"}


def test_what_this_machine_says() -> None:
    found = parse(metrics.render())
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert found["kata_guest_meminfo"]['item="mem_total"'] == memory
    assert 0 < found["kata_guest_meminfo"]['item="mem_available"'] < memory
    assert found["process_max_fds"][""] == os.sysconf("SC_OPEN_MAX")
    assert 'interface="lo",item="recv_bytes"' in found["kata_guest_netdev_stat"]
    assert (
        found["kata_guest_cpu_time"]['cpu="total",item="idle"'] >= found["kata_guest_cpu_time"]['cpu="0",item="idle"']
    )
    later = parse(metrics.render())
    assert later["kata_agent_scrape_count"][""] == found["kata_agent_scrape_count"][""] + 1


@pytest.mark.parametrize(
    ("name", "item"),
    [
        ("MemTotal", "mem_total"),
        ("Active(anon)", "active_anon"),
        ("AnonHugePages", "anon_hugepages"),
        ("HugePages_Total", "hugepages_total"),
        ("Hugepagesize", "hugepagesize"),
        ("SReclaimable", "s_reclaimable"),
        ("SUnreclaim", "s_unreclaim"),
        ("KReclaimable", "k_reclaimable"),
        ("Committed_AS", "committed_as"),
        ("NFS_Unstable", "nfs_unstable"),
        ("WritebackTmp", "writeback_tmp"),
        ("Percpu", "per_cpu"),
        ("ShmemPmdMapped", "shmem_pmd_mapped"),
        ("DirectMap2M", "direct_map_2M"),
        ("VmallocTotal", "vmalloc_total"),
    ],
)
def test_upstreams_spelling_of_meminfo(name: str, item: str) -> None:
    assert metrics.meminfo_item(name) == item


def test_hostile_label_values_stay_inside_their_quotes() -> None:
    samples = [Sample((("disk", 'a"} 1\nb\\'), ("item", "reads")), 2.5)]
    text = metrics.text_of(Family("x", "two\nlines \\ and", samples))
    assert text == '# HELP x two\\nlines \\\\ and\n# TYPE x gauge\nx{disk="a\\"} 1\\nb\\\\",item="reads"} 2.5\n'
    assert len(parse(text)["x"]) == 1


def test_known_files(tmp_path: Path) -> None:
    (tmp_path / "loadavg").write_text("0.50 1.25 2.00 3/45 678\n")
    (tmp_path / "diskstats").write_text(" 253 0 vda " + " ".join(str(n) for n in range(1, 18)) + "\n")
    (tmp_path / "vmstat").write_text("nr_free_pages 7\npgfault 18446744073709551615\n")
    found = parse(metrics.render(str(tmp_path)))
    assert found["kata_guest_load"] == {'item="load1"': 0.5, 'item="load5"': 1.25, 'item="load15"': 2.0}
    assert found["kata_guest_tasks"] == {'item="cur"': 3, 'item="max"': 45}
    assert found["kata_guest_diskstat"]['disk="vda",item="sectors_written"'] == 7
    assert found["kata_guest_diskstat"]['disk="vda",item="time_flushing"'] == 17
    assert "kata_guest_meminfo" not in found
    assert 'kata_guest_vm_stat{item="pgfault"} 18446744073709551615\n' in metrics.render(str(tmp_path))
