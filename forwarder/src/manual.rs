//! Manual pages and shell completions, which each program makes of its own command line for whoever packages it:
//! `PROGRAM --write-manual DIRECTORY`, and nothing else on the command line. It is no option of the program's users, so
//! help does not show it.
#![forbid(unsafe_code)]

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Command;
use clap_complete::Shell;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, roman};

/// The word that asks for pages.
const ASK: &str = "--write-manual";

/// Where each shell looks, below its own folder, and what it calls the file. `{}` is the program.
const SHELLS: [(Shell, &str, &str, &str); 3] =
    [(Shell::Bash, "bash", "", ""), (Shell::Zsh, "zsh", "_", ""), (Shell::Fish, "fish", "", ".fish")];

/// Writes pages and completions of the program that `command` describes, if this process was asked for them: then its
/// exit code, after a sentence on stderr when a file cannot be written. `section` is that of the manual: 1 for users'
/// programs, 8 for administrators'.
pub fn written_if_asked(command: impl FnOnce() -> Command, section: &str) -> Option<ExitCode> {
    let directory = asked(std::env::args_os().skip(1))?;
    let command = command();
    let name = command.get_name().to_owned();
    let written = write(command, section, &directory);
    Some(written.map_or_else(
        |error| {
            // With stderr gone too the exit code has to say it alone.
            _ = writeln!(io::stderr(), "{name}: {error}");
            ExitCode::FAILURE
        },
        |()| ExitCode::SUCCESS,
    ))
}

/// The directory, if pages are all that is asked for.
fn asked(mut args: impl Iterator<Item = OsString>) -> Option<PathBuf> {
    let directory = args.next().filter(|word| word == ASK).and_then(|_| args.next())?;
    args.next().is_none().then(|| directory.into())
}

/// Writes `man/PROGRAM.SECTION`, a page for each subcommand beside it, and a completion script for each shell, into
/// `directory`.
///
/// # Errors
/// A file cannot be written; the sentence names it.
pub fn write(command: Command, section: &str, directory: &Path) -> io::Result<()> {
    let name = command.get_name().to_owned();
    for (shell, folder, before, after) in SHELLS {
        let mut script = Vec::new();
        clap_complete::generate(shell, &mut command.clone(), name.as_str(), &mut script);
        save(&directory.join(folder), &format!("{before}{name}{after}"), &script)?;
    }
    // `help` would have a page for each of its own subcommands, which are all of the program's.
    let mut command = command.disable_help_subcommand(true);
    command.build();
    pages(&command, section, &directory.join("man"))
}

fn pages(command: &Command, section: &str, directory: &Path) -> io::Result<()> {
    for subcommand in shown(command) {
        pages(subcommand, section, directory)?;
    }
    let man = Man::new(command.clone()).section(section).manual("SciStream").date(date());
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    if command.get_arguments().any(|argument| !argument.is_hide_set()) {
        man.render_options_section(&mut page)?;
    }
    if shown(command).next().is_some() {
        man.render_subcommands_section(&mut page)?;
    }
    if let Some(notes) = command.get_after_help() {
        // As it stands: its lines are a table.
        let mut roff = Roff::new();
        roff.control("SH", ["NOTES"]).control("nf", []);
        roff.extend(notes.to_string().lines().map(|line| {
            let mut text = Roff::new();
            text.text([roman(line)]);
            text
        }));
        roff.control("fi", []);
        roff.to_writer(&mut page)?;
    }
    save(directory, &man.get_filename(), &page)
}

/// The day of the pages: that of the source when the packager gives it, so that the same source makes the same pages.
fn date() -> String {
    let given = std::env::var("SOURCE_DATE_EPOCH").ok().and_then(|seconds| seconds.parse().ok());
    let time = given.map_or_else(SystemTime::now, |seconds| UNIX_EPOCH + Duration::from_secs(seconds));
    humantime::format_rfc3339_seconds(time).to_string().chars().take("2026-11-26".len()).collect()
}

/// Subcommands that help shows.
fn shown(command: &Command) -> impl Iterator<Item = &Command> {
    command.get_subcommands().filter(|subcommand| !subcommand.is_hide_set())
}

fn save(directory: &Path, name: &str, text: &[u8]) -> io::Result<()> {
    let path = directory.join(name);
    fs::create_dir_all(directory).and_then(|()| File::create(&path)?.write_all(text)).map_err(|error| {
        io::Error::new(error.kind(), format!("{} cannot be written: {error}", path.display()))
    })
}

#[cfg(test)]
mod tests {
    use clap::Arg;

    use super::*;

    fn program() -> Command {
        Command::new("tool")
            .about("Does things")
            .after_help("Exit codes:\n  0  done\n  .  odd")
            .subcommand(
                Command::new("add").about("Adds one").arg(Arg::new("name").long("name").help("Its name")),
            )
            .subcommand(Command::new("secret").hide(true))
    }

    #[test]
    fn each_subcommand_that_help_shows_has_a_page_and_each_shell_a_script() {
        let dir = tempfile::tempdir().unwrap();
        write(program(), "8", dir.path()).unwrap();
        let mut files: Vec<String> = Vec::new();
        for folder in fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().path()) {
            for file in fs::read_dir(&folder).unwrap() {
                let file = file.unwrap().path();
                files.push(file.strip_prefix(dir.path()).unwrap().display().to_string());
            }
        }
        files.sort();
        assert_eq!(files, ["bash/tool", "fish/tool.fish", "man/tool-add.8", "man/tool.8", "zsh/_tool"]);

        let page = fs::read_to_string(dir.path().join("man/tool.8")).unwrap();
        assert!(page.contains(".TH tool 8") && page.contains("tool\\-add(8)"), "{page}");
        assert!(!page.contains("secret"), "{page}");
        let page = fs::read_to_string(dir.path().join("man/tool-add.8")).unwrap();
        assert!(page.contains("Its name"), "{page}");
    }

    #[test]
    fn notes_keep_their_lines_and_are_no_commands_of_roff() {
        let dir = tempfile::tempdir().unwrap();
        write(program(), "1", dir.path()).unwrap();
        let page = fs::read_to_string(dir.path().join("man/tool.1")).unwrap();
        let notes = page.split(".SH NOTES\n").nth(1).unwrap();
        assert_eq!(notes, ".nf\nExit codes:\n  0  done\n  .  odd\n.fi\n");
    }

    #[test]
    fn only_a_whole_command_line_asks() {
        let asked = |line: &str| asked(line.split_whitespace().map(OsString::from));
        assert_eq!(asked("--write-manual out"), Some(PathBuf::from("out")));
        for line in ["", "--write-manual", "--write-manual out more", "add --write-manual out"] {
            assert_eq!(asked(line), None, "{line}");
        }
    }

    #[test]
    fn a_file_that_cannot_be_written_is_named() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("bash"), "").unwrap();
        let error = write(program(), "1", dir.path()).unwrap_err().to_string();
        assert!(error.contains("bash/tool cannot be written"), "{error}");
    }
}
