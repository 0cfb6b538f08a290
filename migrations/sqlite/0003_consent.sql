-- What patients allow, compiled from their Consents so that a query can decide row by row: docs/access.md has a worked example.
-- PostgreSQL holds the same tables (migrations/postgres/0003_consent.sql).

-- The facts of a class of resources: resources with the same type, codes, labels and authors share one. Numbers are hashes of words.
CREATE TABLE class_fact (class INTEGER NOT NULL, fact INTEGER NOT NULL, PRIMARY KEY (class, fact)) STRICT, WITHOUT ROWID;

-- The facts that satisfy one criterion, any of them. Consents with the same criterion share it.
CREATE TABLE clause_fact (clause INTEGER NOT NULL, fact INTEGER NOT NULL, PRIMARY KEY (clause, fact)) STRICT, WITHOUT ROWID;

-- Who a rule speaks of: for every part (0 .. parts - 1) the requester must have the actor and the purpose of one of its rows; 0 is anybody, any purpose.
CREATE TABLE audience_part (
    actor INTEGER NOT NULL, purpose INTEGER NOT NULL, audience INTEGER NOT NULL, part INTEGER NOT NULL, parts INTEGER NOT NULL,
    PRIMARY KEY (actor, purpose, audience, part)
) STRICT, WITHOUT ROWID;
INSERT INTO audience_part (actor, purpose, audience, part, parts) VALUES (0, 0, 0, 0, 1);

-- One rule for each patient that the Consent covers and each of its provisions. parent: the node it is an exception to (-1: none).
-- low, high: microseconds between which it holds. parts: criteria on the resource, all of them in rule_part. series, stamp: of rules
-- with the same series (not 0) those of the newest Consent count, by stamp and then by when it was written; the others are superseded.
-- precedence: of the rules that speak of a row the lowest decides; odd ones show it.
CREATE TABLE rule (
    patient INTEGER NOT NULL, consent INTEGER NOT NULL, node INTEGER NOT NULL, parent INTEGER NOT NULL, precedence INTEGER NOT NULL, audience INTEGER NOT NULL, low INTEGER NOT NULL, high INTEGER NOT NULL,
    parts INTEGER NOT NULL, children INTEGER NOT NULL, named INTEGER NOT NULL, emergency INTEGER NOT NULL, series INTEGER NOT NULL, stamp INTEGER NOT NULL, updated INTEGER NOT NULL, superseded INTEGER NOT NULL,
    PRIMARY KEY (patient, consent, node)
) STRICT, WITHOUT ROWID;
CREATE INDEX rule_consent ON rule (consent);

-- A criterion on the resource: any row of a part satisfies it. kind: store::gate::Test.
CREATE TABLE rule_part (
    consent INTEGER NOT NULL, node INTEGER NOT NULL, part INTEGER NOT NULL, kind INTEGER NOT NULL, value INTEGER NOT NULL, low INTEGER NOT NULL, high INTEGER NOT NULL,
    PRIMARY KEY (consent, node, part, kind, value, low, high)
) STRICT, WITHOUT ROWID;
