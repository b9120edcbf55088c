"""What the host gives a guest: directories and files shared by virtio-fs, and what is recorded of direct volumes."""
