//! Which file systems a write-ahead log is of use on: its index is memory that processes share, so all of them have to
//! run on one machine. A folder of the network may be written from several.

use std::path::Path;

/// Magic numbers of file systems that several machines write to, from statfs(2) and the kernel's `magic.h`.
const OF_NETWORK: [u32; 12] = [
    0x6969,      // NFS
    0xff53_4d42, // CIFS
    0xfe53_4d42, // SMB 2 and 3
    0x517b,      // SMB
    0x0bd0_0bd0, // Lustre
    0x4750_4653, // GPFS
    0x1983_0326, // BeeGFS
    0x00c3_6400, // Ceph
    0x5346_414f, // AFS
    0x6573_5546, // FUSE: sshfs, GlusterFS, JuiceFS and others
    0x0102_1997, // 9P: folders of a virtual machine's host
    0x7461_636f, // OCFS2
];

/// Whether several machines may write to the folder at `path`.
pub fn is_of_network(path: &Path) -> bool {
    let found = rustix::fs::statfs(path);
    // The type is signed on some machines, and the numbers have 32 bits.
    found.is_ok_and(|found| OF_NETWORK.contains(&(found.f_type as u32)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_of_this_machine_is_not_of_the_network() {
        assert!(!is_of_network(Path::new("/proc")));
        assert!(!is_of_network(Path::new("/does/not/exist")));
        assert!(OF_NETWORK.contains(&(0xff53_4d42_u32 as i32 as u32)));
    }
}
