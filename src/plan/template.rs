//! Templates of YAML documents. Every value goes through JSON, which YAML contains, so that no text of a manifest can
//! change a document's structure.

use handlebars::{Context, Handlebars, Helper, HelperResult, Output, RenderContext, RenderErrorReason};

/// `{{json value}}`: the value as JSON; a missing value is an error.
fn json_helper(
    helper: &Helper<'_>,
    _: &Handlebars<'_>,
    _: &Context,
    _: &mut RenderContext<'_, '_>,
    out: &mut dyn Output,
) -> HelperResult {
    let value = helper.param(0).ok_or(RenderErrorReason::ParamNotFoundForIndex("json", 0))?;
    out.write(&yaml_safe(&value.value().to_string()))?;
    Ok(())
}

/// JSON with the characters escaped that JSON may hold bare but YAML takes for line breaks or forbids.
fn yaml_safe(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    for c in json.chars() {
        match c {
            '\u{7f}'..='\u{9f}' | '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}' => {
                out.extend(["\\u".to_owned(), format!("{:04x}", u32::from(c))]);
            }
            _ => out.push(c),
        }
    }
    out
}

/// A renderer that is strict and has `{{json value}}` for every value.
pub(crate) fn templates<'r>() -> Handlebars<'r> {
    let mut handlebars = Handlebars::new();
    handlebars.set_strict_mode(true);
    handlebars.register_escape_fn(handlebars::no_escape);
    handlebars.register_helper("json", Box::new(json_helper));
    handlebars
}
