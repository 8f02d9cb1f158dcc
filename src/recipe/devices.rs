//! Where to compute: one device, or several that run cells side by side.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;

use anyhow::{Context, Result, ensure};
use candle_core::Device;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::value::SeqAccessDeserializer;
use serde::de::{Deserializer, SeqAccess, Visitor};
use serde::{Deserialize, Serialize, Serializer};

use crate::model::device;

/// One device or several, as recipes spell them: `"auto"`, or `["cuda:0", "cuda:1"]`.
#[derive(Debug, Clone, PartialEq)]
pub struct Devices(Vec<String>);

impl Default for Devices {
    fn default() -> Self {
        Self(vec!["auto".into()])
    }
}

impl Devices {
    /// Checks the names without touching a device.
    ///
    /// # Errors
    /// Where there is none, a name is none, calipr was built without such a device, or they are of several kinds:
    /// which of them ran a cell must not show in its numbers.
    pub fn check(&self) -> Result<()> {
        let kinds: Vec<&str> = self.0.iter().map(|name| device::check(name)).collect::<Result<_>>()?;
        let first = kinds.first().context("expected a device, or several")?;
        if let Some(other) = kinds.iter().find(|kind| *kind != first) {
            anyhow::bail!("expected devices of one kind, but {first} and {other} are among them");
        }
        ensure!(
            self.0.len() == 1 || *first != "auto",
            "\"auto\" stands for one device; name the several, such as [\"cuda:0\", \"cuda:1\"]"
        );
        Ok(())
    }

    /// Opens all of them; one at least.
    pub fn open(&self) -> Result<Vec<Device>> {
        self.opened(self.0.len())
    }

    /// Opens the first: the others are of its kind.
    pub fn open_first(&self) -> Result<Device> {
        Ok(self.opened(1)?.swap_remove(0))
    }

    /// Of what kind they are: `auto` is opened to tell, all others are not.
    pub fn kind(&self) -> Result<&'static str> {
        self.check()?;
        match self.0.first().map(|name| device::check(name)).transpose()? {
            Some("cpu") => Ok("cpu"),
            Some("cuda") => Ok("cuda"),
            Some("metal") => Ok("metal"),
            _ => Ok(device::kind(&self.open_first()?)),
        }
    }

    /// How many GPUs are named.
    pub fn gpus(&self) -> usize {
        let named: BTreeSet<&str> = self.0.iter().map(|name| if name == "cuda" { "cuda:0" } else { name }).collect();
        named.iter().filter(|name| name.starts_with("cuda")).count()
    }

    fn opened(&self, count: usize) -> Result<Vec<Device>> {
        self.check()?;
        let open = |name: &String| device::open(name).with_context(|| format!("the device \"{name}\""));
        self.0.iter().take(count).map(open).collect()
    }
}

impl Serialize for Devices {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0.as_slice() {
            [one] => one.serialize(serializer),
            several => several.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Devices {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OneOrSeveral;

        impl<'de> Visitor<'de> for OneOrSeveral {
            type Value = Devices;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a device such as \"auto\", or several such as [\"cuda:0\", \"cuda:1\"]")
            }

            fn visit_str<E>(self, name: &str) -> Result<Devices, E> {
                Ok(Devices(vec![name.to_owned()]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, names: A) -> Result<Devices, A::Error> {
                Vec::deserialize(SeqAccessDeserializer::new(names)).map(Devices)
            }
        }

        deserializer.deserialize_any(OneOrSeveral)
    }
}

impl JsonSchema for Devices {
    fn schema_name() -> Cow<'static, str> {
        "Devices".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let one = json_schema!({ "type": "string", "pattern": "^(auto|cpu|cuda(:[0-9]+)?|metal(:[0-9]+)?)$" });
        json_schema!({ "anyOf": [one, { "type": "array", "items": one, "minItems": 1 }] })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(toml: &str) -> String {
        #[derive(Debug, Deserialize)]
        struct Model {
            device: Devices,
        }
        match toml::from_str::<Model>(&format!("device = {toml}")) {
            Ok(model) => model.device.check().map_or_else(|e| e.to_string(), |()| "right".into()),
            Err(e) => e.to_string(),
        }
    }

    #[test]
    fn one_device_or_several_of_a_kind() {
        assert_eq!(said("\"auto\""), "right");
        assert_eq!(said("[\"cpu\", \"cpu\"]"), "right");
        for (toml, expected) in [
            ("\"cpu:1\"", "is no device"),
            ("[]", "expected a device"),
            ("[\"auto\", \"auto\"]", "stands for one device"),
            ("[\"cpu\", \"auto\"]", "of one kind"),
            ("1", "several such as"),
        ] {
            assert!(said(toml).contains(expected), "{toml}: {}", said(toml));
        }
    }

    #[test]
    fn devices_are_written_as_they_are_read() {
        for devices in [Devices::default(), Devices(vec!["cuda:0".into(), "cuda:1".into()])] {
            let written = serde_json::to_string(&devices).unwrap();
            assert_eq!(serde_json::from_str::<Devices>(&written).unwrap(), devices);
        }
    }
}
