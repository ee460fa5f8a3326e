//! The process as the kernel sees it, under the names that every client library uses.

use std::{fs, time::Duration};

use rustix::{
    param::{clock_ticks_per_second, page_size},
    process::{Resource, getrlimit},
};

/// What the kernel says of this process. What it does not say is left out.
#[derive(Debug, Default)]
pub(super) struct Process {
    /// In user and system mode.
    pub(super) cpu: Option<Duration>,
    /// In bytes.
    pub(super) resident: Option<u64>,
    pub(super) virtual_memory: Option<u64>,
    pub(super) threads: Option<u64>,
    pub(super) open_fds: Option<usize>,
    pub(super) max_fds: Option<u64>,
}

impl Process {
    pub(super) fn now() -> Self {
        let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
        Self {
            // The look itself has one.
            open_fds: fs::read_dir("/proc/self/fd").ok().map(|all| all.count().saturating_sub(1)),
            max_fds: getrlimit(Resource::Nofile).current,
            ..Self::of_stat(&stat)
        }
    }

    /// Out of `proc_pid_stat(5)`. The program's name, in brackets, can hold anything, so fields count from behind it.
    fn of_stat(stat: &str) -> Self {
        let fields: Vec<_> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let field = |number: usize| fields.get(number - 3).and_then(|field| field.parse::<u64>().ok());
        let ticks =
            |count: u64| Duration::from_millis(count.saturating_mul(1000) / clock_ticks_per_second().max(1));
        Self {
            cpu: field(14).zip(field(15)).map(|(user, system)| ticks(user + system)),
            resident: field(24).map(|pages| pages * page_size() as u64),
            virtual_memory: field(23),
            threads: field(20),
            open_fds: None,
            max_fds: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_tells_of_this_process() {
        let process = Process::now();
        assert!(process.cpu.is_some() && process.threads.is_some_and(|threads| threads > 0));
        assert!(process.resident.unwrap() > 1 << 20 && process.virtual_memory >= process.resident);
        assert!(process.open_fds.unwrap() >= 3 && process.max_fds.is_some());
    }

    #[test]
    fn a_name_with_brackets_and_spaces_is_read_over() {
        let mut stat = "1 (a) b 9) S".to_owned();
        stat.extend((4..=24).map(|number| format!(" {number}")));
        let process = Process::of_stat(&stat);
        assert_eq!((process.threads, process.virtual_memory), (Some(20), Some(23)));
        assert_eq!(process.resident, Some(24 * page_size() as u64));
        let ticks = clock_ticks_per_second();
        assert_eq!(process.cpu, Some(Duration::from_millis(29_000 / ticks)));
        assert!(Process::of_stat("").cpu.is_none());
    }
}
