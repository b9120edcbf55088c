"""What a pod's annotations may do. Everything is off until the operator says otherwise (CVE-2020-27151)."""

from kata.config.kinds import Path, Regex, Words
from kata.config.setting import Setting
from kata.config.settings.hypervisor.table import HypervisorTable


class Annotations(HypervisorTable):
    """Lists of what is allowed; a pod cannot change any of them."""

    enable_annotations = Setting(
        Words(Regex()),
        (),
        "Regular expressions for what pods may set. Each has to match the whole name: `default_vcpus` or "
        "`hypervisor.default_vcpus` for the hypervisor's, `runtime.NAME` and `agent.NAME` for the others.",
    )
    valid_hypervisor_paths = Setting(Words(Path()), (), "Globs for a pod's `path`; * stays within a folder.")
    valid_virtio_fs_daemon_paths = Setting(Words(Path()), (), "Globs for a pod's `virtio_fs_daemon`.")
    valid_entropy_sources = Setting(
        Words(Path()), ("/dev/urandom", "/dev/random"), "Globs for a pod's `entropy_source`."
    )
    valid_vhost_user_store_paths = Setting(Words(Path()), (), "Globs for a pod's `vhost_user_store_path`.")
    valid_jailer_paths = Setting(Words(Path()), (), "Globs for a pod's `jailer_path`.")
    valid_ctlpaths = Setting(Words(Path()), (), "Globs for a pod's `ctlpath`.")
    valid_file_mem_backends = Setting(Words(Path()), (), "Globs for a pod's `file_mem_backend`.")
