//! Processes: on a core of their own, ended with the runner, and what the kernel knows of their time and memory.

use std::{
    error::Error,
    ffi::OsString,
    fs,
    io::{BufRead, BufReader, Write},
    os::unix::process::CommandExt,
    path::Path,
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc::{self, Receiver, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use rustix::{
    process::{Pid, Signal, kill_process, set_parent_process_death_signal},
    thread::{CpuSet, sched_getaffinity, sched_setaffinity},
};

use crate::Fallible;

/// The role of a process that becomes another one, on a core and for no longer than its parent lives.
pub(crate) const LEASH: &str = "leash";
/// In place of a core's number: all that the runner may use.
const ANYWHERE: &str = "anywhere";
/// How long a process may take to end by itself.
const ENDING: Duration = Duration::from_secs(15);
/// How long one that is told to end may take, before it is killed.
const LEAVING: Duration = Duration::from_secs(3);
/// Between two looks at a process that ends.
const BETWEEN_LOOKS: Duration = Duration::from_millis(5);

/// Cores that this process may use.
pub(crate) fn cores() -> Fallible<Vec<usize>> {
    let allowed = sched_getaffinity(None)?;
    Ok((0..CpuSet::MAX_CPU).filter(|core| allowed.is_set(*core)).collect())
}

/// Becomes the program that the arguments name after the core. Returns only if that fails.
pub(crate) fn become_leashed(mut arguments: impl Iterator<Item = String>) -> Fallible<()> {
    let core = arguments.next().ok_or("leash CORE PROGRAM [ARGUMENT...]")?;
    let program = arguments.next().ok_or("leash CORE PROGRAM [ARGUMENT...]")?;
    if core != ANYWHERE {
        let mut alone = CpuSet::new();
        alone.set(core.parse()?);
        sched_setaffinity(None, &alone)?;
    }
    // The signal stays set over exec, and comes also if the runner is killed.
    set_parent_process_death_signal(Some(Signal::TERM))?;
    Err(Box::new(Command::new(program).args(arguments).exec()))
}

/// Waits where there is nothing to wait on.
pub(crate) fn pause(time: Duration) {
    #[expect(clippy::disallowed_methods, reason = "the runner has no worker that it would block")]
    thread::sleep(time);
}

/// It ends when this is dropped.
pub(crate) struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself. A master that is killed outright would leave its workers behind.
        let _ = kill_process(self.pid(), Signal::TERM);
        if !self.ends_within(LEAVING) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }
}

impl Process {
    /// A command that will run `program` on this core, or on any.
    pub(crate) fn command(core: Option<usize>, program: &Path) -> Fallible<Command> {
        let core = core.map_or_else(|| ANYWHERE.to_owned(), |core| core.to_string());
        let mut command = Command::new(std::env::current_exe()?);
        command.arg(LEASH).arg(core).arg(program);
        Ok(command)
    }

    pub(crate) fn start(mut command: Command) -> Fallible<Self> {
        Ok(Self(command.spawn()?))
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.0)
    }

    pub(crate) fn has_ended(&mut self) -> bool {
        !matches!(self.0.try_wait(), Ok(None))
    }

    fn ends_within(&mut self, time: Duration) -> bool {
        let due = Instant::now() + time;
        while !self.has_ended() {
            if Instant::now() > due {
                return false;
            }
            pause(BETWEEN_LOOKS);
        }
        true
    }

    /// It and its children.
    fn all(&self) -> Vec<u32> {
        let mut found = vec![self.0.id()];
        let mut next = 0;
        while let Some(pid) = found.get(next).copied() {
            let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
            found.extend(children.split_whitespace().filter_map(|child| child.parse::<u32>().ok()));
            next += 1;
        }
        found
    }

    /// User and system time of it and its children.
    pub(crate) fn cpu(&self) -> Fallible<Duration> {
        self.all().into_iter().map(cpu_of).sum()
    }

    /// Its memory and its children's, and their share of what others have too (Pss), in bytes.
    pub(crate) fn memory(&self) -> Fallible<u64> {
        self.all().into_iter().map(memory_of).sum()
    }

    /// Open descriptors of it and its children.
    pub(crate) fn descriptors(&self) -> usize {
        let count = |pid| fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count);
        self.all().into_iter().map(count).sum()
    }
}

/// The scheduler's clocks of the threads have nanoseconds; the kernel derives utime and stime, which have hundredths of a second,
/// from them. Without `CONFIG_SCHED_INFO` the latter have to do.
fn cpu_of(pid: u32) -> Fallible<Duration> {
    let threads = fs::read_dir(format!("/proc/{pid}/task"))?;
    let on_core = |thread: fs::DirEntry| {
        let text = fs::read_to_string(thread.path().join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse().ok().map(Duration::from_nanos)
    };
    let fine: Option<Duration> = threads.flatten().map(on_core).sum();
    fine.filter(|time| !time.is_zero()).map_or_else(|| ticks_of(pid), Ok)
}

fn ticks_of(pid: u32) -> Fallible<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The second field is the name in parentheses; user and system time are the 14th and the 15th.
    let fields = stat.rsplit(')').next().ok_or("no name")?;
    let ticks: Vec<u64> =
        fields.split_whitespace().skip(11).take(2).map(str::parse).collect::<Result<_, _>>()?;
    let second = rustix::param::clock_ticks_per_second();
    Ok(Duration::from_nanos(ticks.iter().sum::<u64>() * 1_000_000_000 / second))
}

fn memory_of(pid: u32) -> Fallible<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let pss = text.lines().find_map(|line| line.strip_prefix("Pss:")).ok_or("no Pss")?;
    let kib: u64 = pss.trim().trim_end_matches("kB").trim_end().parse()?;
    Ok(kib * 1024)
}

/// A process of this program, that is spoken with by lines.
pub(crate) struct Dialogue {
    name: &'static str,
    pub(crate) process: Process,
    /// Its end tells the process to end.
    tell: Option<ChildStdin>,
    lines: Receiver<String>,
}

impl Dialogue {
    pub(crate) fn start(core: Option<usize>, name: &'static str, arguments: &[OsString]) -> Fallible<Self> {
        let mut command = Process::command(core, &std::env::current_exe()?)?;
        command.arg(name).args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = Process::start(command)?;
        let tell = process.0.stdin.take();
        let said = process.0.stdout.take().ok_or("no standard output")?;
        let (line, lines) = mpsc::channel();
        thread::spawn(move || {
            BufReader::new(said).lines().map_while(Result::ok).try_for_each(|said| line.send(said))
        });
        Ok(Self { name, process, tell, lines })
    }

    /// What follows `word` on the next line, which must begin with it.
    pub(crate) fn hear(&mut self, word: &str, within: Duration) -> Fallible<String> {
        let line = match self.lines.recv_timeout(within) {
            Ok(line) => line,
            Err(RecvTimeoutError::Timeout) => return Err(self.complain(&format!("did not say {word}"))),
            Err(RecvTimeoutError::Disconnected) => return Err(self.complain("ended")),
        };
        let rest = line.strip_prefix(word).map(|rest| rest.trim().to_owned());
        rest.ok_or_else(|| self.complain(&format!("said {line:?} in place of {word}")))
    }

    fn complain(&self, what: &str) -> Box<dyn Error> {
        format!("the {} {what}", self.name).into()
    }

    pub(crate) fn tell(&mut self, word: &str) -> Fallible<()> {
        let tell = self.tell.as_mut().ok_or("it was told to end")?;
        Ok(writeln!(tell, "{word}")?)
    }

    /// Tells it to end, and waits for that.
    pub(crate) fn end(mut self) -> Fallible<()> {
        self.tell = None;
        match self.process.ends_within(ENDING) {
            true if self.process.0.wait()?.success() => Ok(()),
            true => Err(self.complain("failed")),
            false => Err(self.complain("did not end")),
        }
    }
}
