# One pod's containers, and no others: a policy with conditions, to start from.
#
# `workload` says what may run. Containers are checked against it when they are created; which one was created under
# which id is kept in the state, so that it can be created once, and so that each has commands of its own.
#
# A request is allowed for what is named here, and for nothing else that it may have: what is not looked at is a hole
# (GHSA-fmg6-v47x-52wr). What is *in* the root file system and in volumes it cannot see; whoever does not trust the host
# has to bring those into the guest in another way.
package agent_policy

import rego.v1

workload := {
	"pause": {
		"args": ["/pause"],
		"env": ["^PATH=[/:a-z]+$"],
		"user": 65535,
		"capabilities": set(),
		"mounts": {"/dev/shm"},
		"commands": set(),
	},
	"web": {
		"args": ["/usr/sbin/httpd", "-f", "-p", "8080"],
		"env": [
			"^PATH=[/:a-z]+$",
			"^HOSTNAME=[a-z0-9][-a-z0-9]*$",
			`^[A-Z][A-Z0-9_]*_SERVICE_(HOST|PORT)=[0-9.]+$`,
		],
		"user": 0,
		"capabilities": {"CAP_CHOWN", "CAP_NET_BIND_SERVICE", "CAP_SETGID", "CAP_SETUID"},
		"mounts": {"/dev/shm", "/dev/termination-log", "/etc/hostname", "/etc/hosts", "/etc/resolv.conf", "/var/www"},
		"commands": {["/bin/ls", "/var/www"]},
	},
}

shared := "/run/kata-containers/shared/containers/"

sandbox := "/run/kata-containers/sandbox/"

# Containers

default CreateContainerRequest := false

CreateContainerRequest := {"allowed": true, "ops": ops} if {
	regex.match("^[a-zA-Z0-9][a-zA-Z0-9_.-]*$", input.container_id)
	not data.pstate[input.container_id]
	count(input.devices) == 0
	count(input.shared_mounts) == 0
	every storage in input.storages {
		storage_allowed(storage)
	}
	input.OCI.Hooks == null
	root_allowed(input.OCI.Root.Path)
	linux_allowed(input.OCI.Linux)
	some name, wanted in workload
	not name in created
	input.OCI.Process.Args == wanted.args
	process_allowed(input.OCI.Process, wanted)
	every mount in input.OCI.Mounts {
		mount_allowed(mount, wanted.mounts)
	}
	print("created", name, "as", input.container_id)
	ops := [{"op": "add", "path": concat("/", ["/pstate", input.container_id]), "value": name}]
}

created contains name if some name in data.pstate

# Whom a process runs as, with which rights, and what it finds in its environment

process_allowed(process, wanted) if {
	process.User.UID == wanted.user
	every variable in process.Env {
		variable_allowed(variable, wanted.env)
	}
	every rights in rights_of(process) {
		every right in rights {
			right in wanted.capabilities
		}
	}
}

rights_of(process) := [] if process.Capabilities == null

rights_of(process) := rights if {
	process.Capabilities != null
	rights := [rights | some rights in process.Capabilities]
}

variable_allowed(variable, patterns) if {
	some pattern in patterns
	regex.match(pattern, variable)
}

# Mounts: the kernel's own, each at its place, and shared files at the places that the workload has for them. What makes
# a mount a bind mount is its options as much as its type, and nothing has an empty source.

kernels_own := {
	"/proc": "proc",
	"/sys": "sysfs",
	"/sys/fs/cgroup": "cgroup",
	"/dev": "tmpfs",
	"/dev/pts": "devpts",
	"/dev/shm": "tmpfs",
	"/dev/mqueue": "mqueue",
	"/run": "tmpfs",
}

binds(mount) if {
	some option in mount.options
	option in {"bind", "rbind"}
}

mount_allowed(mount, _) if {
	kernels_own[mount.destination] == mount.type_
	not binds(mount)
	not startswith(mount.source, "/")
}

mount_allowed(mount, places) if {
	mount.destination in places
	mount.type_ == "bind"
	under([shared, concat("", [sandbox, "shm"]), concat("", [sandbox, "watchable/"])], mount.source)
}

# What the guest mounts for a container: only in the folder that is for it, and only of what is for it

storage_allowed(storage) if {
	storage.driver in {"blk", "scsi", "mmioblk"}
	storage.fstype in {"erofs", "ext4", "xfs", "btrfs"}
	under([concat("", [sandbox, "layers/"]), concat("", [sandbox, "rootfs/"])], storage.mount_point)
}

storage_allowed(storage) if {
	storage.driver == "overlayfs"
	storage.fstype == "overlay"
	under([concat("", [sandbox, "rootfs/"])], storage.mount_point)
	every option in storage.options {
		overlay_option_allowed(option)
	}
}

storage_allowed(storage) if {
	storage.driver == "watchable-bind"
	under([shared], storage.source)
	under([concat("", [sandbox, "watchable/"])], storage.mount_point)
}

overlay_option_allowed(option) if option == "io.katacontainers.fs-opt.overlay-rw"

overlay_option_allowed(option) if {
	startswith(option, "lowerdir=")
	not contains(option, ":")
	under([concat("", [sandbox, "layers/"])], substring(option, count("lowerdir="), -1))
}

root_allowed(path) if under([shared, concat("", [sandbox, "rootfs/"])], path)

# No devices, no settings of the kernel but those of the network, and namespaces of its own

linux_allowed(linux) if {
	count(linux.Devices) == 0
	every name, _ in linux.Sysctl {
		startswith(name, "net.")
	}
	kinds := {namespace.Type | some namespace in linux.Namespaces}
	count({"ipc", "mount", "uts"} - kinds) == 0
	every namespace in linux.Namespaces {
		namespace.Path == ""
	}
}

under(folders, path) if {
	some folder in folders
	startswith(path, folder)
	not ".." in split(path, "/")
}

default RemoveContainerRequest := false

RemoveContainerRequest := {"allowed": true, "ops": ops} if {
	data.pstate[input.container_id]
	ops := [{"op": "remove", "path": concat("/", ["/pstate", input.container_id])}]
}

# Further processes: exactly the commands that the container's entry lists, as whom and with what the container has

default ExecProcessRequest := false

ExecProcessRequest if {
	name := data.pstate[input.container_id]
	print("command", input.process.Args, "in", name)
	input.process.Args in workload[name].commands
	process_allowed(input.process, workload[name])
}

# Files: plain ones, in the folder that containers' volumes are taken from

default CopyFileRequest := false

CopyFileRequest if {
	input.file_type in {"Regular", "Directory"}
	startswith(input.path, shared)
	not ".." in split(input.path, "/")
}

# Network: not over the loopback interface

default UpdateInterfaceRequest := false

UpdateInterfaceRequest if input.interface.name != "lo"

default UpdateRoutesRequest := false

UpdateRoutesRequest if {
	every route in input.routes.Routes {
		route.device != "lo"
	}
}

# What the rest of a pod's life needs

default CreateSandboxRequest := false

CreateSandboxRequest if {
	input.guest_hook_path == ""
	count(input.kernel_modules) == 0
}

default DestroySandboxRequest := true
default StartContainerRequest := true
default SignalProcessRequest := true
default WaitProcessRequest := true
default StatsContainerRequest := true
default TtyWinResizeRequest := true
default CloseStdinRequest := true
default WriteStreamRequest := true
default ReadStreamRequest := true
default GetOOMEventRequest := true
default GuestDetailsRequest := true
default OnlineCPUMemRequest := true
default ReseedRandomDevRequest := true
default RemoveStaleVirtiofsShareMountsRequest := true

# And what it does not need

default AddARPNeighborsRequest := false
default AddSwapPathRequest := false
default AddSwapRequest := false
default GetDiagnosticDataRequest := false
default GetIPTablesRequest := false
default GetMetricsRequest := false
default ListInterfacesRequest := false
default ListRoutesRequest := false
default MemAgentCompactConfig := false
default MemAgentMemcgConfig := false
default MemHotplugByProbeRequest := false
default PauseContainerRequest := false
default ResizeVolumeRequest := false
default ResumeContainerRequest := false
default SetGuestDateTimeRequest := false
default SetIPTablesRequest := false
default SetPolicyRequest := false
default UpdateContainerRequest := false
default UpdateEphemeralMountsRequest := false
default VolumeStatsRequest := false
