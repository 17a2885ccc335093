# What a developer needs beside the editor. `./x` installs the same from Debian's packages on Debian.
{pkgs}:
pkgs.mkShell {
  packages = with pkgs; [
    cargo
    clippy
    rustc
    rustfmt
    rust-analyzer
    cargo-deny
    pkg-config
    cmake
    libseccomp
    # To boot the image, and to push to a hub.
    qemu
    mtools
    skopeo
    # What runs a workload's network.
    netavark
    aardvark-dns
    nftables
  ];

  OVMF = "${pkgs.OVMF.fd}/FV";
}
