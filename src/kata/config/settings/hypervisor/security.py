"""How the VMM is confined, and confidential guests."""

from kata.config.kinds import Choice, Flag, Integer, Path, Text
from kata.config.setting import Setting
from kata.config.settings.hypervisor.table import HypervisorTable

NO_TEE = "confidential guests need hardware that this software does not know how to use"
NO_SELINUX = "SELinux labels are not set"
SANDBOX = r"[a-z0-9_=,]*"


def _hash(of: str, annotation: bool | str | tuple[str, ...] = True) -> Setting[str]:
    """What a pod's annotation says that the file named by the setting `of` must have."""
    return Setting(
        Text("([0-9a-fA-F]{128})?", "give 128 hexadecimal digits"),
        "",
        f"The SHA-512 that `{of}` must have.",
        annotation=annotation,
        in_file=False,
    )


class Security(HypervisorTable):
    """What the VMM may do on the host."""

    rootless = Setting(
        Flag(),
        False,
        "Run the VMM as a user of its own.",
        annotation=True,
        quiet=(True,),
        ignored="it always does",
    )
    seccompsandbox = Setting(
        Text(SANDBOX, "the value of QEMU's -sandbox, such as on,obsolete=deny"),
        "",
        "QEMU's -sandbox; empty for our own, which denies all that QEMU can deny.",
        aliases=("hypervisor.seccomp_sandbox",),
        ignored="QEMU's filter is always on, with all that it can deny",
        quiet=("on,obsolete=deny,spawn=deny,resourcecontrol=deny", "on,obsolete=deny,spawn=deny"),
    )
    disable_seccomp = Setting(Flag(), False, "Run the VMM without a seccomp filter.", ignored="the filter is always on")
    disable_selinux = Setting(Flag(), False, "Do not label the VMM's process.", quiet=(True,), ignored=NO_SELINUX)
    disable_guest_selinux = Setting(Flag(), True, "No SELinux in the guest.", ignored="the guest has no SELinux")
    jailer_path = Setting(
        Path(),
        "",
        "Firecracker's jailer.",
        annotation=True,
        allowed_by="valid_jailer_paths",
        ignored="only Firecracker has one",
    )
    ctlpath = Setting(
        Path(),
        "",
        "A control program of the VMM.",
        annotation=True,
        allowed_by="valid_ctlpaths",
        ignored="only ACRN has one",
    )
    guest_hook_path = Setting(
        Path(), "", "A folder of the guest in which hooks for containers are looked for.", annotation=True
    )
    kernel_hash = _hash("kernel")
    image_hash = _hash("image")
    initrd_hash = _hash("initrd")
    firmware_hash = _hash("firmware")
    firmware_volume_hash = _hash("firmware_volume")
    path_hash = _hash("path", ("hypervisor.hypervisor_hash", "hypervisor.path_hash"))
    jailer_path_hash = _hash("jailer_path", "hypervisor.jailer_hash")


class Confidential(HypervisorTable):
    """Guests that the host cannot look into."""

    confidential_guest = Setting(Flag(), False, "The guest's memory is encrypted.", refused=NO_TEE)
    sev_snp_guest = Setting(Flag(), False, "AMD SEV-SNP rather than SEV.", refused=NO_TEE)
    snp_guest_policy = Setting(Integer(0, 2**64 - 1), 196608, "SNP policy bits.", ignored=NO_TEE)
    snp_id_block = Setting(Text(), "", "SNP ID block, base64.", ignored=NO_TEE)
    snp_id_auth = Setting(Text(), "", "SNP ID authentication, base64.", ignored=NO_TEE)
    snp_certs_path = Setting(Path(), "", "A file of SNP certificates.", ignored=NO_TEE)
    tdx_quote_generation_service_socket_port = Setting(
        Integer(), 0, "Port of the quote service.", aliases=("hypervisor.qgs_port",), ignored=NO_TEE
    )
    measurement_algo = Setting(
        Choice("sha256", "sha384", "sha512"), "sha512", "How boot data are measured.", ignored=NO_TEE
    )
    initdata = Setting(
        Text(lines=True),
        "",
        "Data for the guest that are measured, base64 of gzip of TOML.",
        annotation=("hypervisor.cc_init_data", "runtime.cc_init_data"),
        refused=NO_TEE,
    )
