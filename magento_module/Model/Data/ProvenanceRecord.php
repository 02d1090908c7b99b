<?php

declare(strict_types=1);

namespace Tocsin\BreachNotification\Model\Data;

use Magento\Framework\Api\AbstractSimpleObject;
use Tocsin\BreachNotification\Api\Data\ProvenanceRecordInterface;

/**
 * @inheritDoc
 */
class ProvenanceRecord extends AbstractSimpleObject implements ProvenanceRecordInterface
{
    /**
     * @inheritDoc
     */
    public function getRecordId()
    {
        return (string)$this->_get('record_id');
    }

    /**
     * @inheritDoc
     */
    public function setRecordId($recordId)
    {
        return $this->setData('record_id', $recordId);
    }

    /**
     * @inheritDoc
     */
    public function getRoot()
    {
        return (string)$this->_get('root');
    }

    /**
     * @inheritDoc
     */
    public function setRoot($root)
    {
        return $this->setData('root', $root);
    }

    /**
     * @inheritDoc
     */
    public function getCustomerId()
    {
        return $this->_get('customer_id');
    }

    /**
     * @inheritDoc
     */
    public function setCustomerId($customerId)
    {
        return $this->setData('customer_id', $customerId);
    }

    /**
     * @inheritDoc
     */
    public function getOrderId()
    {
        return $this->_get('order_id');
    }

    /**
     * @inheritDoc
     */
    public function setOrderId($orderId)
    {
        return $this->setData('order_id', $orderId);
    }

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
    public function getEntityId()
    {
        return (int)$this->_get('entity_id');
    }

    /**
     * @inheritDoc
     */
    public function setEntityId($entityId)
    {
        return $this->setData('entity_id', $entityId);
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
    public function getRunId()
    {
        return $this->_get('run_id');
    }

    /**
     * @inheritDoc
     */
    public function setRunId($runId)
    {
        return $this->setData('run_id', $runId);
    }

    /**
     * @inheritDoc
     */
    public function getDatasetVersion()
    {
        return $this->_get('dataset_version');
    }

    /**
     * @inheritDoc
     */
    public function setDatasetVersion($datasetVersion)
    {
        return $this->setData('dataset_version', $datasetVersion);
    }

    /**
     * @inheritDoc
     */
    public function getGeneratedAt()
    {
        return (string)$this->_get('generated_at');
    }

    /**
     * @inheritDoc
     */
    public function setGeneratedAt($generatedAt)
    {
        return $this->setData('generated_at', $generatedAt);
    }

    /**
     * @inheritDoc
     */
    public function getDeletedAt()
    {
        return $this->_get('deleted_at');
    }

    /**
     * @inheritDoc
     */
    public function setDeletedAt($deletedAt)
    {
        return $this->setData('deleted_at', $deletedAt);
    }

    /**
     * @inheritDoc
     */
    public function getSupersedes()
    {
        return $this->_get('supersedes');
    }

    /**
     * @inheritDoc
     */
    public function setSupersedes($supersedes)
    {
        return $this->setData('supersedes', $supersedes);
    }

    /**
     * @inheritDoc
     */
    public function getKind()
    {
        return (string)$this->_get('kind');
    }

    /**
     * @inheritDoc
     */
    public function setKind($kind)
    {
        return $this->setData('kind', $kind);
    }

    /**
     * @inheritDoc
     */
    public function getConfidence()
    {
        return $this->_get('confidence');
    }

    /**
     * @inheritDoc
     */
    public function setConfidence($confidence)
    {
        return $this->setData('confidence', $confidence);
    }

    /**
     * @inheritDoc
     */
    public function getSensitivity()
    {
        return (string)$this->_get('sensitivity');
    }

    /**
     * @inheritDoc
     */
    public function setSensitivity($sensitivity)
    {
        return $this->setData('sensitivity', $sensitivity);
    }

    /**
     * @inheritDoc
     */
    public function getCategories()
    {
        return $this->_get('categories') ?? [];
    }

    /**
     * @inheritDoc
     */
    public function setCategories($categories)
    {
        return $this->setData('categories', $categories);
    }

    /**
     * @inheritDoc
     */
    public function getElements()
    {
        return $this->_get('elements') ?? [];
    }

    /**
     * @inheritDoc
     */
    public function setElements($elements)
    {
        return $this->setData('elements', $elements);
    }

    /**
     * @inheritDoc
     */
    public function getSourceSystem()
    {
        return $this->_get('source_system');
    }

    /**
     * @inheritDoc
     */
    public function setSourceSystem($sourceSystem)
    {
        return $this->setData('source_system', $sourceSystem);
    }

    /**
     * @inheritDoc
     */
    public function getStorageLocation()
    {
        return $this->_get('storage_location');
    }

    /**
     * @inheritDoc
     */
    public function setStorageLocation($storageLocation)
    {
        return $this->setData('storage_location', $storageLocation);
    }

    /**
     * @inheritDoc
     */
    public function getInputFields()
    {
        return $this->_get('input_fields') ?? [];
    }

    /**
     * @inheritDoc
     */
    public function setInputFields($inputFields)
    {
        return $this->setData('input_fields', $inputFields);
    }

    /**
     * @inheritDoc
     */
    public function getLegalBasis()
    {
        return $this->_get('legal_basis');
    }

    /**
     * @inheritDoc
     */
    public function setLegalBasis($legalBasis)
    {
        return $this->setData('legal_basis', $legalBasis);
    }

    /**
     * @inheritDoc
     */
    public function getCreatedAt()
    {
        return $this->_get('created_at');
    }

    /**
     * @inheritDoc
     */
    public function setCreatedAt($createdAt)
    {
        return $this->setData('created_at', $createdAt);
    }
}
