//! `i2kit explain`: what the code of a finding means.

use serde_json::json;

use super::args::ExplainArgs;
use super::exit::{Exit, Failure};
use super::output;
use crate::manifest::Code;
use crate::report::{self, Format};

/// Prints a paragraph and an example, or the list of all codes.
pub(super) fn run(args: &ExplainArgs, format: Format) -> Result<Exit, Failure> {
    let codes = match &args.code {
        None => Code::ALL.to_vec(),
        Some(name) => vec![Code::from_name(name).ok_or_else(|| unknown(name))?],
    };
    match format {
        Format::Json => output::json(&codes.iter().map(|code| value(*code)).collect::<Vec<_>>()),
        Format::Text if args.code.is_none() => {
            let lines = codes.iter().map(|code| format!("{:8} {code}\n", code.severity().word()));
            report::result(&lines.collect::<String>());
        }
        Format::Text => codes.iter().for_each(|code| report::result(&paragraph(*code))),
    }
    Ok(Exit::Success)
}

fn unknown(name: &str) -> Failure {
    let advice = match Code::like(name) {
        Some(near) => format!("did you mean `{near}`?"),
        None => "`i2kit explain` lists all".to_owned(),
    };
    let error = anyhow::anyhow!("there is no code `{name}`; {advice}");
    Failure::new(Exit::NotFound, error)
}

fn value(code: Code) -> serde_json::Value {
    json!({
        "code": code.name(),
        "severity": code.severity().word(),
        "explanation": code.explanation(),
        "example": code.example(),
    })
}

fn paragraph(code: Code) -> String {
    let mut text = format!("{}[{code}]\n\n{}\n", code.severity().word(), wrap(code.explanation()));
    if !code.example().is_empty() {
        text.push_str("\nExample:\n\n");
        for line in code.example().lines() {
            text.push_str(&["    ", line, "\n"].concat());
        }
    }
    text
}

/// Breaks lines at 80 characters.
fn wrap(text: &str) -> String {
    let mut out = String::new();
    let mut column = 0;
    for word in text.split(' ') {
        let length = word.chars().count();
        if column > 0 && column + 1 + length > 80 {
            out.push('\n');
            column = 0;
        } else if column > 0 {
            out.push(' ');
            column += 1;
        }
        out.push_str(word);
        column += length;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_a_paragraph_that_fits_a_terminal() {
        for code in Code::ALL {
            let text = paragraph(*code);
            assert!(
                text.lines().all(|line| line.chars().count() <= 80 || line.starts_with("    ")),
                "{text}"
            );
            assert!(code.explanation().ends_with('.'), "{code}");
        }
    }
}
