//! Streams, exit codes, colors and signals.

use crate::*;
use std::fs::File;
use std::io::Read;
use std::time::Duration;

const COMMANDS: [&str; 8] = ["embed", "run", "explain", "check", "diff", "bench", "backends", "completions"];

#[test]
fn help_is_data_and_a_wrong_command_line_is_exit_2() {
    let help = run(&["--help"]).ok();
    for command in COMMANDS {
        assert_contains(&help, command);
        assert_contains(&run(&[command, "--help"]).ok(), "Usage: levelfold");
    }
    for arguments in [&[][..], &["explian"], &["explain"], &["diff", "one"], &["explain", "x", "--nothing"]] {
        assert_contains(&run(arguments).usage(), "Usage: levelfold");
    }
    assert_contains(&run(&["bench", "--workload", "txet"]).usage(), "a similar value exists: 'text'");
    assert_contains(&run(&["explain", "x", "-O7"]).usage(), "unknown optimization level `7`");
    assert_contains(&run(&["run", "x", "--memory-limit", "lots"]).usage(), "write for instance 4096, 64K, 512M or 2G");
    assert_contains(&run(&["run", "x", "--threads", "0"]).usage(), "0 is not in 1..=4096");
    assert_contains(&run(&["run", "x", "--bind", "word:lenghts=a"]).usage(), "did you mean `lengths`?");
}

#[test]
fn every_help_but_a_trivial_one_has_examples() {
    for command in COMMANDS {
        assert_contains(&run(&[command, "--help"]).ok(), &format!("  levelfold {command} "));
    }
}

#[test]
fn backends_are_listed_and_an_absent_one_says_why() {
    let text = run_without_driver(&["backends"]).ok();
    assert_contains(&text, "cpu        available");
    assert_contains(&text, "cuda       unavailable  this machine has no CUDA driver");
    let rows = run_without_driver(&["backends", "--json"]).json();
    let names: Vec<&str> = rows.as_array().unwrap().iter().map(|row| row["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["cpu", "reference", "cuda"]);
    let error = run_without_driver(&["run", &example("text.json"), "--backend", "cuda"]).error();
    assert_contains(&error, "; install NVIDIA's driver, or use --backend cpu [backend-unavailable]");
}

#[test]
fn completions_exist_for_every_shell() {
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        assert_contains(&run(&["completions", shell]).ok(), "levelfold");
    }
    run(&["completions", "tcl"]).usage();
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_an_error() {
    for arguments in [&["explain", &example("text.json")][..], &["backends"], &["completions", "bash"], &["check", "--schema"]] {
        let full = File::options().write(true).open("/dev/full").unwrap();
        let done = Done::of(levelfold(arguments).stdout(full).output().unwrap()).code(1);
        assert_contains(&done.stderr, "cannot write to stdout: No space left on device");
    }
}

#[test]
fn a_closed_pipe_ends_quietly() {
    for arguments in [&["explain", &example("text.json"), "--print-after", "all"][..], &["backends"], &["completions", "bash"]] {
        let mut child = levelfold(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let mut stderr = String::new();
        child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
        assert_eq!((child.wait().unwrap().code(), stderr.as_str()), (Some(0), ""), "{arguments:?}");
    }
}

#[test]
fn errors_are_colored_when_asked() {
    let stderr = |arguments: &[&str]| run(arguments).code(1).stderr;
    assert!(stderr(&["explain", "none.json", "--color", "always"]).starts_with("\u{1b}["));
    for arguments in [&["explain", "none.json"][..], &["explain", "none.json", "--color", "never"]] {
        assert!(stderr(arguments).starts_with("error: cannot read none.json: "), "{}", stderr(arguments));
    }
}

#[test]
fn quiet_silences_remarks_and_not_errors() {
    let arguments = ["bench", "--workload", "tiny", "--rows", "64", "--rounds", "1", "--json", "--stream-bytes", "1M"];
    assert_contains(&run(&arguments).code(0).stderr, "warning: 1 rounds are few");
    assert_eq!(run(&[&arguments[..], &["--quiet"]].concat()).code(0).stderr, "");
    assert_contains(&run(&["explain", "none.json", "-q"]).code(1).stderr, "error: cannot read none.json");
}

#[cfg(unix)]
#[test]
fn ctrl_c_is_exit_130() {
    // So many rounds that it is still at work when the signal comes.
    let mut child = levelfold(&["bench", "--workload", "tiny", "--rounds", "100000", "--seconds", "600", "--stream-bytes", "1M"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    std::thread::sleep(Duration::from_millis(1000));
    let sent = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(sent.success());
    let mut stderr = String::new();
    child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
    assert_eq!((child.wait().unwrap().code(), stderr.as_str()), (Some(130), "error: interrupted\n"));
}
