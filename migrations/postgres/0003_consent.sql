-- What patients allow, compiled from their Consents so that a query can decide row by row: docs/access.md has a worked example.
-- SQLite holds the same tables (migrations/sqlite/0003_consent.sql).

-- The facts of a class of resources: resources with the same type, codes, labels and authors share one. Numbers are hashes of words.
CREATE TABLE class_fact (class BIGINT NOT NULL, fact BIGINT NOT NULL, PRIMARY KEY (class, fact));

-- The facts that satisfy one criterion, any of them. Consents with the same criterion share it.
CREATE TABLE clause_fact (clause BIGINT NOT NULL, fact BIGINT NOT NULL, PRIMARY KEY (clause, fact));

-- Who a rule speaks of: for every part (0 .. parts - 1) the requester must have the actor and the purpose of one of its rows; 0 is anybody, any purpose.
CREATE TABLE audience_part (
    actor BIGINT NOT NULL, purpose BIGINT NOT NULL, audience BIGINT NOT NULL, part BIGINT NOT NULL, parts BIGINT NOT NULL,
    PRIMARY KEY (actor, purpose, audience, part)
);
INSERT INTO audience_part (actor, purpose, audience, part, parts) VALUES (0, 0, 0, 0, 1);

-- One rule for each patient that the Consent covers and each of its provisions. parent: the node it is an exception to (-1: none).
-- low, high: microseconds between which it holds. parts: criteria on the resource, all of them in rule_part. series, stamp: of rules
-- with the same series (not 0) those of the newest Consent count, by stamp and then by when it was written; the others are superseded.
-- precedence: of the rules that speak of a row the lowest decides; odd ones show it.
CREATE TABLE rule (
    patient BIGINT NOT NULL, consent BIGINT NOT NULL, node BIGINT NOT NULL, parent BIGINT NOT NULL, precedence BIGINT NOT NULL, audience BIGINT NOT NULL, low BIGINT NOT NULL, high BIGINT NOT NULL,
    parts BIGINT NOT NULL, children BIGINT NOT NULL, named BIGINT NOT NULL, emergency BIGINT NOT NULL, series BIGINT NOT NULL, stamp BIGINT NOT NULL, updated BIGINT NOT NULL, superseded BIGINT NOT NULL,
    PRIMARY KEY (patient, consent, node)
);
CREATE INDEX rule_consent ON rule (consent);

-- A criterion on the resource: any row of a part satisfies it. kind: store::gate::Test.
CREATE TABLE rule_part (
    consent BIGINT NOT NULL, node BIGINT NOT NULL, part BIGINT NOT NULL, kind BIGINT NOT NULL, value BIGINT NOT NULL, low BIGINT NOT NULL, high BIGINT NOT NULL,
    PRIMARY KEY (consent, node, part, kind, value, low, high)
);
