# One pod's containers, and no others: a policy with conditions, to start from.
#
# `workload` says what may run. Containers are checked against it when they are created; which one was created under
# which id is kept in the state, so that it can be created once, and so that each has commands of its own.
#
# It shows how policies are written. It does not look at a container's user, capabilities, devices, storages and root
# file system: whoever does not trust the host has to add those.
package agent_policy

import rego.v1

workload := {
	"pause": {
		"args": ["/pause"],
		"env": ["^PATH=[/:a-z]+$"],
		"mounts": {"proc", "sysfs", "tmpfs", "devpts", "mqueue"},
		"commands": set(),
	},
	"web": {
		"args": ["/usr/sbin/httpd", "-f", "-p", "8080"],
		"env": [
			"^PATH=[/:a-z]+$",
			"^HOSTNAME=[a-z0-9][-a-z0-9]*$",
			`^[A-Z][A-Z0-9_]*_SERVICE_(HOST|PORT)=[0-9.]+$`,
		],
		"mounts": {"proc", "sysfs", "tmpfs", "devpts", "mqueue"},
		"commands": {"/bin/ls /var/www"},
	},
}

shared := "/run/kata-containers/shared/containers/"

# Containers

default CreateContainerRequest := false

CreateContainerRequest := {"allowed": true, "ops": ops} if {
	not data.pstate[input.container_id]
	input.OCI.Hooks == null
	some name, wanted in workload
	not name in created
	input.OCI.Process.Args == wanted.args
	every variable in input.OCI.Process.Env {
		variable_allowed(variable, wanted.env)
	}
	every mount in input.OCI.Mounts {
		mount_allowed(mount, wanted.mounts)
	}
	print("created", name, "as", input.container_id)
	ops := [{"op": "add", "path": concat("/", ["/pstate", input.container_id]), "value": name}]
}

created contains name if some name in data.pstate

variable_allowed(variable, patterns) if {
	some pattern in patterns
	regex.match(pattern, variable)
}

mount_allowed(mount, kinds) if mount.type_ in kinds

mount_allowed(mount, _) if {
	mount.type_ == "bind"
	startswith(mount.source, shared)
	not ".." in split(mount.source, "/")
}

default RemoveContainerRequest := false

RemoveContainerRequest := {"allowed": true, "ops": ops} if {
	data.pstate[input.container_id]
	ops := [{"op": "remove", "path": concat("/", ["/pstate", input.container_id])}]
}

# Further processes: exactly the commands that the container's entry lists

default ExecProcessRequest := false

ExecProcessRequest if {
	name := data.pstate[input.container_id]
	command := concat(" ", input.process.Args)
	print("command", command, "in", name)
	command in workload[name].commands
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
