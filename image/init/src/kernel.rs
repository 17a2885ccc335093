//! The two requests to the kernel that have no safe interface.
#![expect(unsafe_code, reason = "finit_module and the device mapper's ioctls are raw system calls")]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

/// Commands of the device mapper.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MapperCommand {
    /// `DM_DEV_CREATE`.
    Create,
    /// `DM_DEV_REMOVE`.
    Remove,
    /// `DM_DEV_SUSPEND` without the suspend flag.
    Resume,
    /// `DM_TABLE_LOAD`.
    LoadTable,
}

impl MapperCommand {
    /// `_IOWR(0xfd, n, struct dm_ioctl)`; the structure has 312 bytes.
    fn number(self) -> u64 {
        let command = match self {
            Self::Create => 3,
            Self::Remove => 4,
            Self::Resume => 6,
            Self::LoadTable => 9,
        };
        0xc138_fd00 | command
    }
}

/// Loads a module that is not compressed.
pub(crate) fn insert_module(file: &File) -> io::Result<()> {
    // SAFETY: the descriptor is open, and the parameters are a NUL-terminated text that outlives the call.
    let result = unsafe { libc::syscall(libc::SYS_finit_module, file.as_raw_fd(), c"".as_ptr(), 0) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Sends a request whose header names the buffer's own length, and takes the answer into the buffer.
pub(crate) fn mapper(control: &File, command: MapperCommand, buffer: &mut [u8]) -> io::Result<()> {
    let named = buffer.get(12..16).map(|size| u32::from_le_bytes([size[0], size[1], size[2], size[3]]));
    if named.map(|size| size as usize) != Some(buffer.len()) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: the kernel reads and writes at most as many bytes as the header names, which was just compared with the
    // buffer's length; the buffer is borrowed for the whole call.
    let result = unsafe { libc::ioctl(control.as_raw_fd(), command.number() as _, buffer.as_mut_ptr()) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
