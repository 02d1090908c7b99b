<?php

declare(strict_types=1);

namespace Tocsin\BreachNotification\Model\Data;

use Magento\Framework\Api\AbstractSimpleObject;
use Tocsin\BreachNotification\Api\Data\DataMapEntryInterface;

/**
 * @inheritDoc
 */
class DataMapEntry extends AbstractSimpleObject implements DataMapEntryInterface
{
    /**
     * @inheritDoc
     */
    public function getEntityType()
    {
        return (string)$this->_get('entity_type');
    }

    /**
     * @inheritDoc
     */
    public function setEntityType($entityType)
    {
        return $this->setData('entity_type', $entityType);
    }

    /**
     * @inheritDoc
     */
    public function getAttribute()
    {
        return (string)$this->_get('attribute');
    }

    /**
     * @inheritDoc
     */
    public function setAttribute($attribute)
    {
        return $this->setData('attribute', $attribute);
    }

    /**
     * @inheritDoc
     */
    public function getModelId()
    {
        return (string)$this->_get('model_id');
    }

    /**
     * @inheritDoc
     */
    public function setModelId($modelId)
    {
        return $this->setData('model_id', $modelId);
    }

    /**
     * @inheritDoc
     */
    public function getModelVersion()
    {
        return (string)$this->_get('model_version');
    }

    /**
     * @inheritDoc
     */
    public function setModelVersion($modelVersion)
    {
        return $this->setData('model_version', $modelVersion);
    }

    /**
     * @inheritDoc
     */
    public function getRecordCount()
    {
        return (int)$this->_get('record_count');
    }

    /**
     * @inheritDoc
     */
    public function setRecordCount($recordCount)
    {
        return $this->setData('record_count', $recordCount);
    }

    /**
     * @inheritDoc
     */
    public function getHeldCount()
    {
        return (int)$this->_get('held_count');
    }

    /**
     * @inheritDoc
     */
    public function setHeldCount($heldCount)
    {
        return $this->setData('held_count', $heldCount);
    }

    /**
     * @inheritDoc
     */
    public function getCustomerCount()
    {
        return (int)$this->_get('customer_count');
    }

    /**
     * @inheritDoc
     */
    public function setCustomerCount($customerCount)
    {
        return $this->setData('customer_count', $customerCount);
    }

    /**
     * @inheritDoc
     */
    public function getOrderCount()
    {
        return (int)$this->_get('order_count');
    }

    /**
     * @inheritDoc
     */
    public function setOrderCount($orderCount)
    {
        return $this->setData('order_count', $orderCount);
    }

    /**
     * @inheritDoc
     */
    public function getFirstGeneratedAt()
    {
        return (string)$this->_get('first_generated_at');
    }

    /**
     * @inheritDoc
     */
    public function setFirstGeneratedAt($firstGeneratedAt)
    {
        return $this->setData('first_generated_at', $firstGeneratedAt);
    }

    /**
     * @inheritDoc
     */
    public function getLastGeneratedAt()
    {
        return (string)$this->_get('last_generated_at');
    }

    /**
     * @inheritDoc
     */
    public function setLastGeneratedAt($lastGeneratedAt)
    {
        return $this->setData('last_generated_at', $lastGeneratedAt);
    }
}
