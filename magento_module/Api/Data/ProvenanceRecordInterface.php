<?php

declare(strict_types=1);

namespace Tocsin\BreachNotification\Api\Data;

/**
 * One AI write: which model, which version, wrote what about whom. Written once; only deleted_at is set later.
 *
 * @api
 */
interface ProvenanceRecordInterface
{
    /**
     * 1-64 of A-Z a-z 0-9 . _ : - ; the same id with the same content is one record
     *
     * @return string|null
     */
    public function getRecordId();

    /**
     * @param string $recordId
     * @return $this
     */
    public function setRecordId($recordId);

    /**
     * Whom it is about: customer/<id>, or order/<id> for what was written about an order
     *
     * @return string|null
     */
    public function getRoot();

    /**
     * @param string $root
     * @return $this
     */
    public function setRoot($root);

    /**
     * The customer that it is about
     *
     * @return int|null
     */
    public function getCustomerId();

    /**
     * @param int|null $customerId
     * @return $this
     */
    public function setCustomerId($customerId);

    /**
     * The order that it is about
     *
     * @return int|null
     */
    public function getOrderId();

    /**
     * @param int|null $orderId
     * @return $this
     */
    public function setOrderId($orderId);

    /**
     * customer, customer_address, order, or a name of your own for what the store does not hold
     *
     * @return string
     */
    public function getEntityType();

    /**
     * @param string $entityType
     * @return $this
     */
    public function setEntityType($entityType);

    /**
     * Id of that entity
     *
     * @return int
     */
    public function getEntityId();

    /**
     * @param int $entityId
     * @return $this
     */
    public function setEntityId($entityId);

    /**
     * Attribute code or column that was written
     *
     * @return string
     */
    public function getAttribute();

    /**
     * @param string $attribute
     * @return $this
     */
    public function setAttribute($attribute);

    /**
     * The model that wrote
     *
     * @return string
     */
    public function getModelId();

    /**
     * @param string $modelId
     * @return $this
     */
    public function setModelId($modelId);

    /**
     * Its version
     *
     * @return string
     */
    public function getModelVersion();

    /**
     * @param string $modelVersion
     * @return $this
     */
    public function setModelVersion($modelVersion);

    /**
     * The run of the model
     *
     * @return string|null
     */
    public function getRunId();

    /**
     * @param string|null $runId
     * @return $this
     */
    public function setRunId($runId);

    /**
     * Version of the data that the model was trained on
     *
     * @return string|null
     */
    public function getDatasetVersion();

    /**
     * @param string|null $datasetVersion
     * @return $this
     */
    public function setDatasetVersion($datasetVersion);

    /**
     * When the model wrote: UTC, to the second
     *
     * @return string
     */
    public function getGeneratedAt();

    /**
     * @param string $generatedAt
     * @return $this
     */
    public function setGeneratedAt($generatedAt);

    /**
     * When the value was removed: UTC, to the second; null while it is held
     *
     * @return string|null
     */
    public function getDeletedAt();

    /**
     * @param string|null $deletedAt
     * @return $this
     */
    public function setDeletedAt($deletedAt);

    /**
     * Record id of the write that this one replaces
     *
     * @return string|null
     */
    public function getSupersedes();

    /**
     * @param string|null $supersedes
     * @return $this
     */
    public function setSupersedes($supersedes);

    /**
     * synthetic, derived, inferred or real
     *
     * @return string
     */
    public function getKind();

    /**
     * @param string $kind
     * @return $this
     */
    public function setKind($kind);

    /**
     * 0 to 1, four decimals
     *
     * @return float|null
     */
    public function getConfidence();

    /**
     * @param float|null $confidence
     * @return $this
     */
    public function setConfidence($confidence);

    /**
     * low, medium, high or critical
     *
     * @return string
     */
    public function getSensitivity();

    /**
     * @param string $sensitivity
     * @return $this
     */
    public function setSensitivity($sensitivity);

    /**
     * Categories of data, as the notices name them
     *
     * @return string[]|null
     */
    public function getCategories();

    /**
     * @param string[] $categories
     * @return $this
     */
    public function setCategories($categories);

    /**
     * Data elements, as the law names them
     *
     * @return string[]|null
     */
    public function getElements();

    /**
     * @param string[] $elements
     * @return $this
     */
    public function setElements($elements);

    /**
     * The system that wrote
     *
     * @return string|null
     */
    public function getSourceSystem();

    /**
     * @param string|null $sourceSystem
     * @return $this
     */
    public function setSourceSystem($sourceSystem);

    /**
     * Where else the value lies
     *
     * @return string|null
     */
    public function getStorageLocation();

    /**
     * @param string|null $storageLocation
     * @return $this
     */
    public function setStorageLocation($storageLocation);

    /**
     * What the model was given
     *
     * @return string[]|null
     */
    public function getInputFields();

    /**
     * @param string[] $inputFields
     * @return $this
     */
    public function setInputFields($inputFields);

    /**
     * Ground of the processing
     *
     * @return string|null
     */
    public function getLegalBasis();

    /**
     * @param string|null $legalBasis
     * @return $this
     */
    public function setLegalBasis($legalBasis);

    /**
     * When the store took the record: UTC
     *
     * @return string|null
     */
    public function getCreatedAt();

    /**
     * @param string|null $createdAt
     * @return $this
     */
    public function setCreatedAt($createdAt);
}
