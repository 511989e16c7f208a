//! The schemas of users' kinds: checked when a kind is declared, and loaded when one is needed.

use std::collections::HashMap;
use std::sync::Arc;

use starlane_core::{
    Base, Code, Declared, Kind, Point, Problem, Properties, Property, PropertyChange, Resource, Target,
};

use super::{Inner, Op};
use crate::error::Error;
use crate::schema::{Schema, Versions};

impl Inner {
    /// Before kinds are declared, their schemas must be such, and have what is to be indexed.
    ///
    /// # Errors
    /// The first that cannot be declared, by its number, and why.
    pub(super) async fn check_declarations(&self, ops: &[Op]) -> Result<(), (usize, Error)> {
        // As the ops so far make them.
        let mut drafted: HashMap<&Point, Properties> = HashMap::new();
        for (number, op) in ops.iter().enumerate() {
            let (point, mut properties, changes) = match op {
                Op::Create(create) if create.kind.base == Base::Kind => {
                    let point = match &create.target {
                        Target::Point(point) => point,
                        Target::Sequence(sequence) => &sequence.parent,
                    };
                    let view = self.view.read();
                    let known = view.get(point).into_iter().flat_map(|known| &known.properties);
                    let kept = known.filter(|(_, property)| property.locked);
                    let kept = kept.map(|(key, property)| (key.clone(), property.clone())).collect();
                    (point, kept, &create.changes)
                }
                Op::Set { point, changes, .. } => {
                    let known = || {
                        let view = self.view.read();
                        let known = view.get(point).filter(|known| known.kind.base == Base::Kind)?;
                        Some(known.properties.clone())
                    };
                    let Some(properties) = drafted.remove(point).or_else(known) else { continue };
                    (point, properties, changes)
                }
                _ => continue,
            };
            for change in changes {
                match change {
                    PropertyChange::Set { key, value, lock } => {
                        properties.insert(key.clone(), Property { value: value.clone(), locked: *lock });
                    }
                    PropertyChange::Unset(key) => drop(properties.remove(key)),
                }
            }
            let checked = self.check_declaration(point, &properties, changes).await;
            checked.map_err(|error| (number, error))?;
            drafted.insert(point, properties);
        }
        Ok(())
    }

    async fn check_declaration(
        &self,
        point: &Point,
        properties: &Properties,
        changes: &[PropertyChange],
    ) -> Result<(), Error> {
        let changes = |key: &str| changes.iter().any(|change| change.key().as_str() == key);
        let source = properties.get("schema").map(|property| property.value.as_point());
        let indexes = properties.contains_key("indexed") && (changes("indexed") || changes("schema"));
        let checked = match source {
            Some(source) if indexes || changes("schema") => {
                let schema = self.read_schema(point, source).await?;
                Declared::check_indexed(properties, |key| schema.check_sortable(key))
            }
            None if indexes => {
                let unknown = "what is indexed must be a property of the kind's schema, and it has none";
                Declared::check_indexed(properties, |_| Err(unknown.to_owned()))
            }
            _ => Ok(()),
        };
        let kind = Kind { base: Base::Kind, sub: None };
        checked.map_err(|errors| Error::Invalid { point: point.clone(), kind, errors })
    }

    pub(super) async fn load_schema(&self, declaration: &Arc<Resource>) -> Result<(), Error> {
        let source = declaration.point_property("schema");
        let versions = {
            let view = self.view.read();
            Versions::of(declaration, source.as_ref().and_then(|source| view.get(source)))
        };
        let schema = self.read_schema(&declaration.point, source).await?;
        self.compiled.insert(declaration.point.clone(), versions, schema);
        Ok(())
    }

    async fn read_schema(&self, declaration: &Point, source: Option<Point>) -> Result<Schema, Error> {
        let unusable =
            |problem: Box<Problem>| Error::SchemaUnusable { declaration: declaration.clone(), problem };
        let source = source.ok_or_else(|| {
            let what = "`schema` does not name a point";
            unusable(Box::new(Problem::new(Code::PropertyValue, what)))
        })?;
        let schemas = self.schemas.get().ok_or_else(|| {
            let what = "this registry cannot read schemas";
            unusable(Box::new(Problem::new(Code::Unsupported, what)))
        })?;
        let text = schemas.read(source).await.map_err(|problem| unusable(Box::new(problem)))?;
        Schema::compile(&text).map_err(unusable)
    }
}
