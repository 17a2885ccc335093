//! The system calls by what governs them. Names that the machine's libseccomp does not know are skipped.

use oci_spec::runtime::Capability;

/// Values of `personality` that only change how addresses and the kernel's version look: Linux, 32-bit Linux, both with
/// the 2.6 version, and the query.
pub(super) const PERSONALITIES: &[u64] = &[0x0, 0x8, 0x2_0000, 0x2_0008, 0xFFFF_FFFF];

/// Allowed to everyone, a line a family.
pub(super) const ALWAYS: &str = "
    read write readv writev pread64 pwrite64 preadv pwritev preadv2 pwritev2 lseek _llseek
    open openat openat2 creat close close_range dup dup2 dup3 fcntl fcntl64 ioctl flock
    stat stat64 lstat lstat64 fstat fstat64 fstatat64 newfstatat statx statfs statfs64 fstatfs fstatfs64
    access faccessat faccessat2 chdir fchdir getcwd mkdir mkdirat rmdir readdir getdents getdents64
    link linkat symlink symlinkat readlink readlinkat unlink unlinkat rename renameat renameat2 mknod mknodat
    chmod fchmod fchmodat fchmodat2 chown chown32 fchown fchown32 lchown lchown32 fchownat umask
    truncate truncate64 ftruncate ftruncate64 fallocate fadvise64 fadvise64_64 readahead copy_file_range
    utime utimes utimensat utimensat_time64 futimesat sync syncfs fsync fdatasync sync_file_range cachestat
    getxattr lgetxattr fgetxattr setxattr lsetxattr fsetxattr listxattr llistxattr flistxattr
    removexattr lremovexattr fremovexattr getxattrat setxattrat listxattrat removexattrat
    sendfile sendfile64 splice tee vmsplice pipe pipe2 name_to_handle_at statmount listmount
    inotify_init inotify_init1 inotify_add_watch inotify_rm_watch fanotify_mark

    select _newselect pselect6 pselect6_time64 poll ppoll ppoll_time64
    epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_wait epoll_wait_old epoll_pwait epoll_pwait2
    eventfd eventfd2 signalfd signalfd4 timerfd timerfd_create timerfd_settime timerfd_settime64 timerfd_gettime
    timerfd_gettime64 io_setup io_destroy io_submit io_cancel io_getevents io_pgetevents io_pgetevents_time64

    brk mmap mmap2 munmap mremap mprotect madvise msync mincore mlock mlock2 mlockall munlock munlockall mseal
    map_shadow_stack remap_file_pages membarrier memfd_create memfd_secret pkey_alloc pkey_free pkey_mprotect
    process_mrelease

    fork vfork execve execveat exit exit_group wait4 waitpid waitid kill tkill tgkill pause
    getpid getppid gettid getpgid getpgrp setpgid getsid setsid
    getuid getuid32 geteuid geteuid32 getgid getgid32 getegid getegid32 getresuid getresuid32 getresgid getresgid32
    setuid setuid32 setgid setgid32 setreuid setreuid32 setregid setregid32 setresuid setresuid32 setresgid
    setresgid32 setfsuid setfsuid32 setfsgid setfsgid32 getgroups getgroups32 setgroups setgroups32 capget capset
    prctl seccomp pidfd_open pidfd_send_signal ptrace process_vm_readv process_vm_writev
    getpriority setpriority getrlimit ugetrlimit setrlimit prlimit64 getrusage ioprio_get ioprio_set
    sched_yield sched_getparam sched_setparam sched_getscheduler sched_setscheduler sched_getattr sched_setattr
    sched_getaffinity sched_setaffinity sched_get_priority_max sched_get_priority_min sched_rr_get_interval
    sched_rr_get_interval_time64 getcpu rseq set_tid_address set_thread_area get_thread_area
    set_robust_list get_robust_list restart_syscall
    futex futex_time64 futex_wait futex_wake futex_waitv futex_requeue
    landlock_create_ruleset landlock_add_rule landlock_restrict_self

    rt_sigaction rt_sigprocmask rt_sigpending rt_sigqueueinfo rt_tgsigqueueinfo rt_sigreturn rt_sigsuspend
    rt_sigtimedwait rt_sigtimedwait_time64 sigaction sigaltstack signal sigpending sigprocmask sigreturn sigsuspend

    time times gettimeofday clock_gettime clock_gettime64 clock_getres clock_getres_time64 clock_nanosleep
    clock_nanosleep_time64 nanosleep clock_adjtime clock_adjtime64 adjtimex alarm getitimer setitimer timer_create
    timer_delete timer_getoverrun timer_gettime timer_gettime64 timer_settime timer_settime64

    bind connect listen accept accept4 socketpair shutdown getsockname getpeername getsockopt setsockopt
    send sendto sendmsg sendmmsg recv recvfrom recvmsg recvmmsg recvmmsg_time64 socketcall

    ipc semctl semget semop semtimedop semtimedop_time64 shmat shmctl shmdt shmget msgctl msgget msgrcv msgsnd
    mq_open mq_unlink mq_getsetattr mq_notify mq_timedreceive mq_timedreceive_time64 mq_timedsend
    mq_timedsend_time64

    getrandom sysinfo uname
";

/// Allowed with a capability, EPERM without.
pub(super) const BY_CAPABILITY: &[(Capability, &str)] = &[
    (
        Capability::SysAdmin,
        "bpf fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie mount mount_setattr move_mount
         open_tree perf_event_open pivot_root quotactl quotactl_fd setdomainname sethostname setns syslog umount
         umount2 unshare swapon swapoff",
    ),
    (Capability::SysBoot, "reboot kexec_load kexec_file_load"),
    (Capability::SysChroot, "chroot"),
    (Capability::SysModule, "delete_module finit_module init_module"),
    (Capability::SysNice, "get_mempolicy mbind set_mempolicy set_mempolicy_home_node migrate_pages move_pages"),
    (Capability::SysPacct, "acct"),
    (Capability::SysPtrace, "kcmp pidfd_getfd process_madvise"),
    (Capability::SysRawio, "iopl ioperm"),
    (Capability::SysTime, "settimeofday stime clock_settime clock_settime64"),
    (Capability::SysTtyConfig, "vhangup"),
    (Capability::Syslog, "syslog"),
    (Capability::DacReadSearch, "open_by_handle_at"),
    (Capability::Bpf, "bpf"),
    (Capability::Perfmon, "perf_event_open"),
];

/// Of the machine's architecture and its 32-bit sister.
#[cfg(target_arch = "x86_64")]
pub(super) const OF_ARCHITECTURE: &str = "arch_prctl modify_ldt";
#[cfg(target_arch = "aarch64")]
pub(super) const OF_ARCHITECTURE: &str =
    "arm_fadvise64_64 arm_sync_file_range sync_file_range2 breakpoint cacheflush set_tls";
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
pub(super) const OF_ARCHITECTURE: &str = "";
