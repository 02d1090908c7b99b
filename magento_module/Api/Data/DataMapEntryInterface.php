<?php

declare(strict_types=1);

namespace Tocsin\BreachNotification\Api\Data;

/**
 * How much one version of one model has written into one attribute.
 *
 * @api
 */
interface DataMapEntryInterface
{
    /**
     * Type of entity
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
     * Attribute code or column
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
     * The model
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
     * Records, retired ones included
     *
     * @return int
     */
    public function getRecordCount();

    /**
     * @param int $recordCount
     * @return $this
     */
    public function setRecordCount($recordCount);

    /**
     * Records of values that are held now
     *
     * @return int
     */
    public function getHeldCount();

    /**
     * @param int $heldCount
     * @return $this
     */
    public function setHeldCount($heldCount);

    /**
     * Different customers with records
     *
     * @return int
     */
    public function getCustomerCount();

    /**
     * @param int $customerCount
     * @return $this
     */
    public function setCustomerCount($customerCount);

    /**
     * Different orders with records
     *
     * @return int
     */
    public function getOrderCount();

    /**
     * @param int $orderCount
     * @return $this
     */
    public function setOrderCount($orderCount);

    /**
     * Earliest write: UTC
     *
     * @return string
     */
    public function getFirstGeneratedAt();

    /**
     * @param string $firstGeneratedAt
     * @return $this
     */
    public function setFirstGeneratedAt($firstGeneratedAt);

    /**
     * Latest write: UTC
     *
     * @return string
     */
    public function getLastGeneratedAt();

    /**
     * @param string $lastGeneratedAt
     * @return $this
     */
    public function setLastGeneratedAt($lastGeneratedAt);
}
