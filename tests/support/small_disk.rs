//! A small ext4 of its own, in a file, so that a test may fill it.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

/// A mounted file system; unmounted when dropped.
#[derive(Debug)]
pub struct SmallDisk {
    mount: PathBuf,
    // After the mount, so that it outlives it.
    _directory: TempDir,
}

impl SmallDisk {
    /// Makes and mounts a file system of `bytes` bytes; the reason when that is not possible here.
    pub fn mount(bytes: u64) -> Result<Self, String> {
        let directory = tempfile::tempdir().map_err(|error| error.to_string())?;
        let (image, mount) = (directory.path().join("image"), directory.path().join("mount"));
        let file = File::create(&image).map_err(|error| error.to_string())?;
        file.set_len(bytes).map_err(|error| error.to_string())?;
        fs::create_dir(&mount).map_err(|error| error.to_string())?;
        run(Command::new("mkfs.ext4").args(["-q", "-F", "-m", "0"]).arg(&image))?;
        run(Command::new("mount").args(["-o", "loop"]).args([&image, &mount]))?;
        Ok(Self { mount, _directory: directory })
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.mount
    }

    /// How many flushes its device has completed. The device is its own, so they are all ours (and
    /// the journal's: one in five seconds).
    pub fn flushes(&self) -> u64 {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        let mount = self.mount.to_str().unwrap();
        let is_ours = |line: &&str| line.split(' ').nth(1) == Some(mount);
        let device = mounts.lines().find(is_ours).unwrap().split(' ').next().unwrap();
        let name = device.strip_prefix("/dev/").unwrap();
        let stat = fs::read_to_string(format!("/sys/block/{name}/stat")).unwrap();
        // Field 16 (Documentation/block/stat.rst in the Linux sources).
        stat.split_whitespace().nth(15).unwrap().parse().unwrap()
    }

    /// Has every write wait until the result is dropped; the reason when that is not possible here.
    pub fn freeze(&self) -> Result<Frozen, String> {
        run(Command::new("fsfreeze").arg("--freeze").arg(&self.mount))?;
        Ok(Frozen(self.mount.clone()))
    }

    /// Takes all free space with one file; removing the file gives it back.
    pub fn fill(&self) -> PathBuf {
        let path = self.mount.join("filler");
        let file = File::create(&path).unwrap();
        let (mut length, mut step) = (0, 1_u64 << 30);
        while step >= 4096 {
            match allocate(&file, length + step) {
                Ok(()) => length += step,
                Err(_) => step /= 2,
            }
        }
        path
    }
}

/// A file system that takes nothing.
#[derive(Debug)]
pub struct Frozen(PathBuf);

impl Drop for Frozen {
    fn drop(&mut self) {
        run(Command::new("fsfreeze").arg("--unfreeze").arg(&self.0)).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: it goes when the last process that uses it has ended.
        let _ = run(Command::new("umount").arg("--lazy").arg(&self.mount));
    }
}

fn allocate(file: &File, length: u64) -> std::io::Result<()> {
    use std::os::fd::AsRawFd as _;
    let length = libc::off_t::try_from(length).unwrap();
    // SAFETY: a plain system call on a descriptor that is open during it.
    match unsafe { libc::posix_fallocate(file.as_raw_fd(), 0, length) } {
        0 => Ok(()),
        code => Err(std::io::Error::from_raw_os_error(code)),
    }
}

fn run(command: &mut Command) -> Result<(), String> {
    let output = command.stdin(Stdio::null()).output();
    let output = output.map_err(|error| format!("{command:?}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let reason = String::from_utf8_lossy(&output.stderr);
    Err(format!("{command:?}: {}", reason.trim()))
}
