//! Python's `StructuredOutput` read attribute by attribute.
use candle_vllm_engine::{Form, Refused, StructuredOutput, Trigger, Whitespace};
use pyo3::prelude::*;

use crate::errors;

/// The attributes of the same names.
#[derive(FromPyObject)]
pub struct PyStructuredOutput {
    json_object: bool,
    json_schema: Option<String>,
    regex: Option<String>,
    choice: Option<Vec<String>>,
    grammar: Option<String>,
    whitespace: String,
    after: Option<String>,
    triggers: Vec<PyTrigger>,
    least: usize,
    most: Option<usize>,
}

/// The attributes of the same names.
#[derive(FromPyObject)]
struct PyTrigger {
    begin: String,
    form: PyStructuredOutput,
    end: String,
}

impl PyStructuredOutput {
    /// The engine's record.
    pub fn read(self) -> PyResult<StructuredOutput> {
        let whitespace = match &*self.whitespace {
            "single" => Whitespace::Single,
            "compact" => Whitespace::Compact,
            "any" => Whitespace::Any,
            other => {
                let expected = "one of single, compact, any";
                return Err(errors::config(Refused::new("whitespace", other, expected)));
            }
        };
        let form = self.form();
        let triggers = self.triggers.into_iter().map(PyTrigger::read);
        Ok(StructuredOutput {
            form,
            whitespace,
            after: self.after,
            triggers: triggers.collect::<PyResult<_>>()?,
            least: self.least,
            most: self.most,
        })
    }

    fn form(&self) -> Option<Form> {
        if self.json_object {
            return Some(Form::JsonObject);
        }
        let schema = self.json_schema.clone().map(Form::JsonSchema);
        let regex = || self.regex.clone().map(Form::Regex);
        let choice = || self.choice.clone().map(Form::Choice);
        let grammar = || self.grammar.as_deref().map(Form::grammar);
        schema.or_else(regex).or_else(choice).or_else(grammar)
    }
}

impl PyTrigger {
    fn read(self) -> PyResult<Trigger> {
        let form = self.form.form().ok_or_else(|| {
            let expected = "forms that begin somewhere";
            errors::config(Refused::new("triggers", "one without a form", expected))
        })?;
        Ok(Trigger {
            begin: self.begin,
            form,
            end: self.end,
        })
    }
}
