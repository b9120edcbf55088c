"""What the host gives a guest besides its disks. Today: host directories and files, shared by virtio-fs."""
